"""What recalibration keeps, refuses and puts back, and what it says of it."""

import copy
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

import xhat
from xhat.errors import DataError, ModelError, UsageError
from xhat.surgery import recalibrate_
from xhat.unchanged import unchanged

from .recalibrating import (
    ByName,
    convolutional,
    data,
    mlp,
    randomised,
    same,
    state_of,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: threads only wait for each other where cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- what is kept


def test_layers_that_are_kept_and_why():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.good, self.off, self.stateless, self.unused = (nn.BatchNorm1d(3) for _ in range(4))
            self.off.track_running_stats = False
            self.stateless = nn.BatchNorm1d(3, track_running_stats=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.good(self.stateless(self.off(x)))

    for sequential in (False, True):
        model = randomised(Model())
        before = state_of(model)
        result = recalibrate_(model, data((3,)), sequential=sequential)
        assert result.layers == ("good",)
        assert "training does not move" in result.kept["off"]
        assert "no running statistics" in result.kept["stateless"]
        assert "did not call it" in result.kept["unused"] or "no batch reached it" in result.kept["unused"]
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if "good" not in k)
        assert "kept off: track_running_stats=False" in repr(result)
        frame = result.to_frame()
        assert list(frame["module"]) == ["good", "stateless", "off", "unused"] or len(frame) == 4
        assert frame.set_index("module").loc["good", "values"] == 14
        assert frame.set_index("module").loc["unused", "kept"] == result.kept["unused"]


def test_a_layer_that_some_batches_reach():
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.always, self.sometimes = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.always(x)
            return self.sometimes(x) if len(x) > 3 else x

    model = Sometimes()
    result = recalibrate_(model, data((3,)))
    assert result.values == {"always": 14, "sometimes": 9}
    assert (model.always.num_batches_tracked, model.sometimes.num_batches_tracked) == (4, 2)


# --- what is wrong, what is restored


WRONG: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], dict[str, Any], type[Exception], str]] = {
    "no-norm": (lambda: nn.Linear(3, 3), lambda: data((3,)), {}, UsageError, "no batch norm that could"),
    "all-frozen": (lambda: xhat.freeze_(mlp()), lambda: data((6,)), {}, UsageError, "'?1'? is kept: frozen by"),
    "lazy": (lambda: nn.LazyBatchNorm1d(), lambda: data((3,)), {}, UsageError, "call the model once"),
    "limit": (mlp, lambda: data((6,)), {"limit": 0}, UsageError, "limit=0"),
    "tensor": (mlp, lambda: data((6,))[0], {}, UsageError, r"write \[batch\]"),
    "no-batches": (mlp, list, {}, DataError, "there are no batches"),
    "no-batches-2": (mlp, list, {"sequential": True}, DataError, "there are no batches"),
    "iterator": (mlp, lambda: iter(data((6,))), {"sequential": True}, UsageError, "takes 2 passes.*pass a list"),
    "call": (ByName, lambda: data((3,)), {}, ModelError, "forward="),
    "half": (
        lambda: nn.BatchNorm1d(3).half(),
        lambda: [1000 * batch.half() for batch in data((3,))],
        {},
        ModelError,
        "running_var of batch norm '' would be up to .*infinite in torch.float16",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "batches", "options", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_usage(make, batches, options, error, message):
    model = make()
    before = None if isinstance(model, nn.LazyBatchNorm1d) else state_of(model)
    with pytest.raises(error, match=message):
        recalibrate_(model, batches(), **options)
    if before is not None:
        assert same(model, before)


def test_one_pass_takes_an_iterator_whole():
    model = nn.BatchNorm1d(3)
    result = recalibrate_(model, iter(data((3,))), sequential=True)
    assert (result.passes, result.batches) == (1, 4)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
@pytest.mark.parametrize("sequential", [False, True])
def test_an_exception_in_the_middle_changes_nothing(error, sequential):
    model, batches = convolutional(), data((3, 9, 9))
    model[4].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    calls = 0

    def forward(net: nn.Module, batch: Tensor) -> None:
        nonlocal calls
        calls += 1
        net(batch)
        torch.rand(1)
        if calls == 3:
            raise error

    before, random = state_of(model), torch.get_rng_state()
    with pytest.raises(ModelError if error is RuntimeError else error):
        recalibrate_(model, batches, forward=forward, sequential=sequential)
    assert same(model, before)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model] == [True, True, True, True, False]
    assert all("forward" not in vars(module) for module in model)
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))


def test_an_interrupt_while_writing_changes_nothing(monkeypatch):
    model = convolutional()
    before = state_of(model)
    true, writes = Tensor.copy_, 0

    def copy_(self: Tensor, source: Tensor, *args: Any) -> Tensor:
        nonlocal writes
        if source.dtype == torch.float64 and self.dtype == torch.float32:
            writes += 1
            if writes == 7:  # four within the pass, then the third of the final ones
                raise KeyboardInterrupt
        return true(self, source, *args)

    monkeypatch.setattr(Tensor, "copy_", copy_)
    with pytest.raises(KeyboardInterrupt):
        recalibrate_(model, data((3, 9, 9)))
    monkeypatch.undo()
    assert writes == 7
    assert same(model, before)


def test_hooks_and_own_forwards_of_the_user_stay():
    model = nn.Sequential(nn.BatchNorm1d(3))
    model[0].register_forward_pre_hook(lambda _, args: (args[0] * 3,))
    own = model[0].forward
    vars(model[0])["forward"] = doubled = lambda x: 2 * own(x)
    recalibrate_(model, data((3,)))
    assert vars(model[0])["forward"] is doubled
    assert len(model[0]._forward_pre_hooks) == 1
    values = 3 * torch.cat(data((3,)))
    torch.testing.assert_close(model[0].running_mean, values.mean(0))


def test_a_layer_whose_forward_is_called_without_its_hooks():
    class Direct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn.forward(x)

    model = Direct()
    recalibrate_(model, data((3,)))
    torch.testing.assert_close(model.bn.running_mean, torch.cat(data((3,))).mean(0))


def test_compiled_models():
    plain, batches = convolutional(), data((3, 9, 9))
    compiled = torch.compile(copy.deepcopy(plain), backend="eager")
    compiled(batches[0])
    recalibrate_(plain, batches)
    plain_result = recalibrate_(compiled, batches)
    assert plain_result.layers == ("_orig_mod.1", "_orig_mod.4")
    torch.testing.assert_close(compiled._orig_mod.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_a_probe_around_it_restores_it():
    model = convolutional()
    before = state_of(model)
    with unchanged(model):
        recalibrate_(model, data((3, 9, 9)))
    assert same(model, before)


def test_weight_averages():
    model = torch.optim.swa_utils.AveragedModel(convolutional())
    assert recalibrate_(model, data((3, 9, 9))).layers == ("module.1", "module.4")


# --- the result and the progress


def test_how_far_statistics_moved():
    model = nn.BatchNorm1d(2, eps=1.0)
    model.running_mean.copy_(torch.tensor([0.0, 1.0]))
    model.running_var.copy_(torch.tensor([3.0, 0.0]))
    x = torch.tensor([[1.0, 1.0], [3.0, 5.0], [5.0, 9.0]])  # means 3 and 5, unbiased variances 4 and 16
    moved = recalibrate_(model, [x]).moved[""]
    assert (moved.values, moved.batches) == (3, 1)
    assert (moved.shift_median, moved.shift_max) == pytest.approx(((3 / 2 + 4) / 2, 4))
    assert (moved.ratio_min, moved.ratio_median, moved.ratio_max) == pytest.approx(
        (5 / 4, (5 / 4 + 17) / 2, 17)
    )


def test_the_bar_is_drawn_on_terminals_only(monkeypatch, capsys):
    recalibrate_(mlp(), data((6,)), progress=True)
    assert capsys.readouterr() == ("", "")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    class Stream(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            return iter(torch.cat(data((6,))))

    for batches in (data((6,)), DataLoader(Stream(), batch_size=4)):
        screen = Terminal()
        monkeypatch.setattr("sys.stderr", screen)
        monkeypatch.setenv("TERM", "xterm")
        recalibrate_(mlp(), batches, sequential=True, progress=True)
        assert "1/2" in screen.getvalue()
        assert "2/2" in screen.getvalue()
    assert capsys.readouterr().out == ""


class InPlace(nn.Module):
    """Scales its input where it lies, as preprocessing is written at times."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.mul_(3.0).add_(1.0))


def test_a_model_that_writes_into_its_input_gets_the_same_batch_each_time():
    batches = data((3,))
    kept = [batch.clone() for batch in batches]
    model, truth = InPlace(), nn.BatchNorm1d(3)
    recalibrate_(model, batches, sequential=True)
    recalibrate_(truth, [3 * batch + 1 for batch in kept])
    assert all(torch.equal(a, b) for a, b in zip(batches, kept, strict=True))
    torch.testing.assert_close(model.norm.running_var, truth.running_var)
    torch.testing.assert_close(model.norm.running_mean, truth.running_mean)


def test_a_batch_of_wrong_shape_is_named():
    with pytest.raises(ModelError, match=r"on batch 2 \(tensor \(5, 4\)\)"):
        recalibrate_(nn.BatchNorm1d(3), [torch.randn(5, 3), torch.randn(5, 3), torch.randn(5, 4)])
