"""Recalibrated statistics are those of all values each layer saw, by an independent loop in float64."""

import copy
import io
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import xhat
from xhat.errors import DataError, ModelError, UsageError
from xhat.norms import batch_norms
from xhat.surgery import Recalibration, recalibrate_
from xhat.unchanged import unchanged

Batches = list[Any]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: threads only wait for each other where cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- the oracle


def oracle(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    by_batch: Iterable[str],
    watch: Iterable[str],
    run: Callable[[nn.Module, Any], Any] = lambda model, batch: model(batch),
) -> dict[str, tuple[Tensor, Tensor, int]]:
    """Return mean, unbiased variance and count of all values that the layers saw, from a plain loop."""
    model = copy.deepcopy(model).eval()
    held: dict[str, list[Tensor]] = {name: [] for name in watch}
    for name, norm in batch_norms(model).items():
        norm.training = name in by_batch
        if name in held:
            norm.register_forward_pre_hook(
                lambda _, args, kwargs, name=name: held[name].append(
                    (args or (*kwargs.values(),))[0].double()
                ),
                with_kwargs=True,
            )
    with torch.no_grad():
        for batch in batches:
            run(model, batch)
    found = {}
    for name, inputs in held.items():
        values = torch.cat([x.movedim(1, 0).flatten(1) for x in inputs], 1)
        found[name] = values.mean(1), values.var(1, correction=1), values.shape[1]
    return found


def check(
    model: nn.Module,
    expected: dict[str, tuple[Tensor, Tensor, int]],
    result: Recalibration,
    rtol: float = 2e-6,
) -> None:
    assert {*expected} <= {*result.layers}
    for name, (mean, var, count) in expected.items():
        norm = batch_norms(model)[name]
        sigma = float(var.max().sqrt())
        torch.testing.assert_close(norm.running_mean.double(), mean, rtol=rtol, atol=rtol * sigma)
        torch.testing.assert_close(norm.running_var.double(), var, rtol=rtol, atol=rtol * sigma**2)
        assert result.values[name] == count


def in_turn(
    model: nn.Module, batches: Batches, order: Iterable[str]
) -> dict[str, tuple[Tensor, Tensor, int]]:
    """Return what a sequential run gives, one layer after the other, all in evaluation mode."""
    model = copy.deepcopy(model)
    found = {}
    for name in order:
        found |= oracle(model, batches, by_batch=(), watch=[name])
        batch_norms(model)[name].running_mean.copy_(found[name][0])
        batch_norms(model)[name].running_var.copy_(found[name][1])
    return found


# --- models


class Residual(nn.Module):
    """Two branches of different depth, and a chain behind them: bn1 → (bn2 → bn3, bn4) → bn5."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.bn1, self.bn2, self.bn3, self.bn4, self.bn5 = (nn.BatchNorm2d(4) for _ in range(5))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.bn1(self.conv1(x)).relu())
        left = self.bn3(self.conv2(self.bn2(x)).relu())
        right = self.bn4(input=self.conv3(x))
        return self.bn5(self.conv4((left + right).relu()))


class Fused(nn.BatchNorm2d):
    """A batch norm with an activation, whose own mode must not switch its dropout on."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop = nn.Dropout(0.9)

    def forward(self, input: Tensor) -> Tensor:
        return self.drop(super().forward(input).relu())


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
        self.first, self.shared = nn.BatchNorm1d(5), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.b(self.shared(self.a(self.first(x)))))


def randomised(model: nn.Module) -> nn.Module:
    """Statistics, γ and β as after some training."""
    generator = torch.Generator().manual_seed(1)
    for norm in batch_norms(model).values():
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            if tensor is not None:
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


def convolutional() -> nn.Module:
    return randomised(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4))
    )


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.BatchNorm1d(6)), (5,)),
    "1d": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4)), (3, 8)),
    "2d": (convolutional, (3, 9, 9)),
    "3d": (lambda: nn.Sequential(nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3)), (2, 4, 4, 4)),
    "channels_last": (lambda: convolutional().to(memory_format=torch.channels_last), (3, 9, 9)),
    "residual": (Residual, (4, 6, 6)),
    "itself": (lambda: nn.BatchNorm2d(3), (3, 4, 4)),
    "no-affine": (lambda: nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.ReLU(), nn.BatchNorm2d(3)), (3, 4, 4)),
    "cumulative": (lambda: nn.Sequential(nn.BatchNorm2d(3, momentum=None), nn.BatchNorm2d(3)), (3, 4, 4)),
    "synchronised": (lambda: nn.SyncBatchNorm.convert_sync_batchnorm(convolutional()), (3, 9, 9)),
    "subclass": (lambda: nn.Sequential(Fused(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (3, 5, 5)),
}  # fmt: skip


def data(shape: tuple[int, ...], sizes: Iterable[int] = (4, 2, 5, 3)) -> Batches:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(size, *shape, generator=generator) * 2 + 1 for size in sizes]


@pytest.mark.parametrize(("make", "shape"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("training", [True, False])
def test_as_in_training(make, shape, training):
    model, batches = make().train(training), data(shape)
    names = list(batch_norms(model))
    expected = oracle(model, batches, by_batch=names, watch=names)
    others = {k: v.clone() for k, v in model.state_dict().items() if "running" not in k and "num" not in k}
    result = recalibrate_(model, batches)
    check(model, expected, result)
    assert (result.batches, result.skipped, result.passes, dict(result.kept)) == (4, 0, 1, {})
    assert all(norm.num_batches_tracked == 4 for norm in batch_norms(model).values())
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(model.state_dict()[key], value) for key, value in others.items())
    assert all("forward" not in vars(module) for module in model.modules())


@pytest.mark.parametrize(("make", "shape"), CASES.values(), ids=CASES)
def test_sequential(make, shape, caplog):
    model, batches = make(), data(shape)
    expected = in_turn(model, batches, batch_norms(model))  # registered in the order of the forward pass
    with caplog.at_level(logging.INFO):
        result = recalibrate_(model, batches, sequential=True)
    # The oracle's own statistics are rounded to float32 on the way, ours too.
    check(model, expected, result, rtol=1e-5)
    depth = 4 if make is Residual else len(expected)
    assert result.passes == depth
    assert f"passes over the batches: {depth}" in caplog.text
    assert all(norm.num_batches_tracked == 4 for norm in batch_norms(model).values())


def test_after_a_sequential_run_each_layer_has_mean_0_and_variance_1_in_evaluation():
    model, batches = Residual().eval(), data((4, 6, 6))
    recalibrate_(model, batches, sequential=True)
    for name, (mean, var, _) in oracle(model, batches, by_batch=(), watch=batch_norms(model)).items():
        norm = batch_norms(model)[name]
        torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(norm.running_var.double(), var, rtol=1e-5, atol=1e-5)


def test_a_layer_used_twice_gets_the_statistics_over_all_uses():
    model, batches = randomised(Shared()), data((5,))
    names = ["first", "shared"]
    expected = oracle(model, batches, by_batch=names, watch=names)
    result = recalibrate_(model, batches)
    check(model, expected, result)
    assert result.values == {"first": 14, "shared": 28}
    assert model.shared.num_batches_tracked == 4  # batches, not uses

    model = randomised(Shared())
    first = in_turn(model, batches, ["first"])
    result = recalibrate_(model, batches, sequential=True)
    check(model, first, result)
    model.shared.reset_running_stats()  # while normalising with the batch's it did not matter
    check_shared = oracle(model, batches, by_batch=["shared"], watch=["shared"])["shared"]
    assert result.values["shared"] == 28
    recalibrate_(model, batches, sequential=True)
    torch.testing.assert_close(model.shared.running_var.double(), check_shared[1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_inputs_with_float32_statistics(dtype):
    model, batches = convolutional(), data((3, 9, 9))

    def forward(net: nn.Module, batch: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=dtype):
            return net(batch)

    names = list(batch_norms(model))
    expected = oracle(model, batches, by_batch=names, watch=names, run=forward)
    check(model, expected, recalibrate_(model, batches, forward=forward))


def test_bfloat16_models_get_their_statistics_rounded_once():
    model, batches = convolutional().bfloat16(), [batch.bfloat16() for batch in data((3, 9, 9))]
    expected = oracle(model, batches, by_batch=["1", "4"], watch=["1", "4"])
    recalibrate_(model, batches)
    for name, (mean, var, _) in expected.items():
        assert torch.equal(batch_norms(model)[name].running_mean, mean.bfloat16())
        assert torch.equal(batch_norms(model)[name].running_var, var.bfloat16())


def test_a_mean_of_1e4():
    model, batches = nn.BatchNorm2d(3), [batch + 1e4 for batch in data((3, 8, 8))]
    check(model, oracle(model, batches, by_batch=[""], watch=[""]), recalibrate_(model, batches), rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_batch_sizes_do_not_matter_to_the_first_layer(sizes, random):
    x = data((3, 4), [sum(sizes)])[0]
    model = nn.BatchNorm1d(3)
    parts = list(x.split(sizes))
    random.shuffle(parts)
    recalibrate_(model, parts)
    values = x.double().movedim(1, 0).flatten(1)
    torch.testing.assert_close(model.running_mean.double(), values.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.running_var.double(), values.var(1, correction=1), rtol=1e-6, atol=0)


# --- where peers fail


def correlated() -> tuple[Batches, float]:
    """Batches of 2 images whose pixels are nearly one value each; the true unbiased variance."""
    generator = torch.Generator().manual_seed(0)
    x = 1.4 * torch.randn(256, 1, 1, 1, generator=generator) + 0.3 * torch.randn(
        256, 1, 8, 8, generator=generator
    )
    return list(x.split(2)), float(x.double().var())


def test_correlated_pixels_in_batches_of_2():
    batches, truth = correlated()
    model = nn.Sequential(nn.BatchNorm2d(1))
    update_bn(batches, model)
    # The mean of the batches' own variances misses what lies between the batches.
    assert float(model[0].running_var) < 0.8 * truth
    recalibrate_(model, batches)
    assert float(model[0].running_var) == pytest.approx(truth, rel=1e-6)


def test_frozen_layers_stay():
    for freeze in (lambda bn: bn.eval(), lambda bn: xhat.freeze_(bn)):
        model, batches = convolutional().train(), data((3, 9, 9))
        freeze(model[1])
        before = copy.deepcopy(model.state_dict())
        other = copy.deepcopy(model)
        other[1].reset_running_stats()  # of what torch's does below
        expected = oracle(model, batches, by_batch=["4"], watch=["4"])
        result = recalibrate_(model, batches)
        check(model, expected, result)
        assert result.layers == ("4",)
        assert set(result.kept) == {"1"}
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(model.state_dict()[f"1.{name}"], before[f"1.{name}"])
        assert not model[1].training


def test_update_bn_overwrites_a_layer_frozen_by_eval():
    model = convolutional().train()
    model[1].eval()
    before = model[1].running_mean.clone()
    update_bn(data((3, 9, 9)), model)
    assert not torch.equal(model[1].running_mean, before)


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(3)

    def forward(self, image: Tensor, scale: Tensor) -> Tensor:
        return self.bn(image * scale)


def test_batches_of_any_kind():
    batches = data((3,))
    truth = nn.BatchNorm1d(3)
    recalibrate_(truth, batches)
    dicts = [{"image": batch / 2, "scale": torch.tensor(2.0)} for batch in batches]
    with pytest.raises((TypeError, AttributeError)):
        update_bn(dicts, ByName())
    tensors = TensorDataset(torch.cat(batches), torch.zeros(14))
    forms: list[tuple[nn.Module, Iterable[Any], dict[str, Any]]] = [
        (ByName(), dicts, {}),
        (ByName(), iter(dicts), {}),
        (ByName(), [(one, 7) for one in dicts], {}),
        (ByName(), [((batch, torch.ones(())), 7) for batch in batches], {}),
        (ByName(), [{"x": b} for b in batches], {"forward": lambda m, b: m(b["x"], torch.ones(()))}),
        (nn.Sequential(nn.BatchNorm1d(3)), DataLoader(tensors, batch_size=4), {}),
        (nn.Sequential(nn.BatchNorm1d(3)), (batch for batch in batches), {}),
    ]
    for model, form, options in forms:
        result = recalibrate_(model, form, **options)
        (norm,) = batch_norms(model).values()
        torch.testing.assert_close(norm.running_var, truth.running_var)
        assert result.values == {"bn" if isinstance(model, ByName) else "0": 14}


def test_a_loader_shorter_than_the_limit():
    model = nn.BatchNorm1d(3)
    assert recalibrate_(model, data((3,)), limit=200).batches == 4
    assert model.num_batches_tracked == 4
    batches = data((3,))
    recalibrate_(model, batches, limit=2)
    assert model.num_batches_tracked == 2
    check(model, oracle(model, batches[:2], by_batch=[""], watch=[""]), recalibrate_(model, batches, limit=2))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def same(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(
        torch.equal(value.nan_to_num(), before[key].nan_to_num()) for key, value in model.state_dict().items()
    )


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("sequential", [False, True])
def test_one_bad_value_is_told_and_changes_nothing(bad, sequential):
    model, batches = convolutional(), data((3, 9, 9))
    batches[2][1, 0, 4, 4] = bad
    before = state_of(model)
    with pytest.raises(
        DataError, match=r"batch 2: \d+ of 1470 values that reach batch norm '1' are NaN or inf"
    ):
        recalibrate_(model, batches, sequential=sequential)
    assert same(model, before)
    assert model.training


def test_old_statistics_that_are_infinite_are_mended():
    model = nn.BatchNorm1d(3)
    model(torch.full((2, 3), math.inf))
    for _ in range(200):
        model(torch.randn(4, 3))
    assert not model.running_mean.isfinite().any()  # 200 clean batches do not heal it
    result = recalibrate_(model, data((3,)))
    assert model.running_mean.isfinite().all()
    assert math.isnan(result.moved[""].shift_median) or math.isinf(result.moved[""].shift_median)
    assert "(model)" in repr(result)


# --- single values


def mlp() -> nn.Module:
    return randomised(
        nn.Sequential(
            nn.Unflatten(1, (1, 6)), nn.BatchNorm1d(1), nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4)
        )
    )


def test_a_last_batch_of_one_is_left_out_for_all_layers(caplog):
    model, batches = mlp(), data((6,), (4, 3, 1))
    names = ["1", "4"]
    expected = oracle(model, batches[:2], by_batch=names, watch=names)
    result = recalibrate_(model, batches)
    check(model, expected, result)  # layer 1 saw 6 values of the last batch, and leaves them out too
    assert (result.batches, result.skipped) == (2, 1)
    assert "1 of 3 batches were left out" in caplog.text
    assert "batch norm '4' (input (1, 4))" in caplog.text
    assert "skipped batches: 1" in repr(result)


def test_single_values_are_no_hindrance_to_a_sequential_run():
    model, batches = mlp(), data((6,), (1, 1, 1, 4))
    expected = in_turn(model, batches, ["1", "4"])
    result = recalibrate_(model, batches, sequential=True)
    check(model, expected, result, rtol=1e-5)
    assert (result.batches, result.skipped, result.values) == (4, 0, {"1": 42, "4": 7})


def test_only_single_values():
    model = mlp()
    before = state_of(model)
    with pytest.raises(DataError, match=r"each of the 3 batches.*'4' \(input \(1, 4\)\).*sequential=True"):
        recalibrate_(model, data((6,), (1, 1, 1)))
    with pytest.raises(DataError, match="saw one value a channel in all batches together"):
        recalibrate_(model, data((6,), (1,)), sequential=True)
    assert same(model, before)


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
