"""The recorded data flow is what the program says, by cases whose answer is plain."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.landscape.everything import look_around, make
from tests.surgery.nets import FrozenBatchNorm2d, Net, quickly
from xhat.dataflow import Flow, Mode, record
from xhat.errors import ModelError

X = torch.randn(2, 4, 4, 6)


@pytest.fixture(autouse=True, scope="module")
def _quickly() -> Iterator[None]:
    with quickly():
        yield


def parts() -> dict[str, nn.Module]:
    return {
        "conv": nn.Conv2d(4, 4, 1),
        "bn": nn.BatchNorm2d(4),
        "bn2": nn.BatchNorm2d(4),
        "drop": nn.Dropout(0.5),
        "relu": nn.ReLU(inplace=True),
    }


def flow(program: Callable[..., Any], *, mode: Mode = "eval", x: Tensor = X, **more: nn.Module) -> Flow:
    found = record(Net(program, **{**parts(), **more}), x, modes=(mode,)).flow(mode)
    assert found is not None
    return found


def double(x: Tensor) -> Tensor:
    return x * 2


SOURCES: dict[str, tuple[Callable[..., Any], str, str, str]] = {
    # program, mode, kind and name of what reaches bn
    "module": (lambda n, x: n.bn(n.conv(x)), "eval", "module", "conv"),
    "input": (lambda n, x: n.bn(x), "eval", "input", ""),
    "input-moved": (lambda n, x: n.bn(x.flip(3).clone()), "eval", "input", ""),
    "input-overwritten": (lambda n, x: n.bn(x.mul_(2)), "eval", "function", "mul_"),
    "parameter": (lambda n, x: n.bn(n.conv.weight), "eval", "parameter", "conv.weight"),
    "function": (lambda n, x: n.bn(double(n.conv(x))), "eval", "function", "mul"),
    "relu-in-place": (lambda n, x: n.bn(n.relu(n.conv(x))), "eval", "module", "relu"),
    "relu-function": (lambda n, x: n.bn(F.relu(n.conv(x))), "eval", "function", "relu"),
    "written-through-a-view": (
        lambda n, x: n.bn((lambda y: (y[0].add_(1), y)[1])(n.conv(x))),
        "eval",
        "function",
        "add_",
    ),
    "written-by-index": (lambda n, x: n.bn(into(n.conv(x))), "eval", "function", "fill_"),
    "dropout-in-evaluation": (lambda n, x: n.bn(n.drop(n.conv(x))), "eval", "module", "conv"),
    "dropout-in-training": (lambda n, x: n.bn(n.drop(n.conv(x))), "train", "module", "drop"),
    "identity": (lambda n, x: n.bn(nn.Identity()(n.conv(x))), "eval", "module", "conv"),
    "moved": (
        lambda n, x: n.bn(n.conv(x).permute(0, 1, 3, 2).contiguous().view(2, 4, 8, 3).roll(1, 3)[:, :, 1:]),
        "eval",
        "module",
        "conv",
    ),
    "reflect": (lambda n, x: n.bn(F.pad(n.conv(x), (1, 1, 1, 1), mode="reflect")), "eval", "module", "conv"),
    "zeros": (lambda n, x: n.bn(F.pad(n.conv(x), (1, 1))), "eval", "function", "constant_pad_nd"),
    "copied": (lambda n, x: n.bn(torch.empty_like(x).copy_(n.conv(x))), "eval", "function", "copy_"),
    "out": (lambda n, x: n.bn(torch.add(n.conv(x), 1, out=torch.empty_like(x))), "eval", "function", "add"),
    "another-type": (lambda n, x: n.bn(n.conv(x).double().float()), "eval", "function", "_to_copy"),
    "sum": (lambda n, x: n.bn(n.conv(x) + x), "eval", "function", "add"),
    "norm": (lambda n, x: n.bn(n.bn2(x)), "eval", "module", "bn2"),
    "checkpointed": (
        lambda n, x: checkpoint(lambda y: n.bn(n.conv(y)), x, use_reentrant=False),
        "eval",
        "module",
        "conv",
    ),
    "checkpointed-in-training": (
        lambda n, x: checkpoint(lambda y: n.bn(n.conv(y)), x, use_reentrant=True),
        "train",
        "module",
        "conv",
    ),
    "past-hooks": (lambda n, x: n.bn(n.conv.forward(x)), "eval", "function", "convolution"),
}


def into(y: Tensor) -> Tensor:
    y[:, 0, 0] = 3.0
    return y


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("name", SOURCES)
def test_sources(name: str) -> None:
    program, mode, kind, source = SOURCES[name]
    found = flow(program, mode=mode)  # type: ignore[arg-type]
    seen = found.source(found.calls["bn"][0])
    assert (seen.kind, seen.name) == (kind, source)


NOISE: dict[str, tuple[Callable[..., Any], bool]] = {
    "module": (lambda n, x: n.bn(n.drop(n.conv(x))), True),
    "function": (lambda n, x: n.bn(F.dropout(n.conv(x), 0.3)), True),
    "channels": (lambda n, x: n.bn(F.dropout2d(n.conv(x), 0.3)), True),
    "alpha": (lambda n, x: n.bn(F.alpha_dropout(n.conv(x), 0.3, training=True)), True),
    "moved": (lambda n, x: n.bn(n.drop(n.conv(x)).flip(2)), True),
    "noise-added": (lambda n, x: n.bn(n.conv(x) + torch.randn_like(x)), True),
    "drop-path": (lambda n, x: n.bn(n.conv(x) * x.new_empty(2, 1, 1, 1).bernoulli_(0.5).div_(0.5)), True),
    "none": (lambda n, x: n.bn(n.conv(x) + torch.ones_like(x)), False),
    "before-the-layer": (lambda n, x: n.bn(n.conv(n.drop(x))), False),
}


@pytest.mark.parametrize("name", NOISE)
def test_noise(name: str) -> None:
    program, random = NOISE[name]
    found = flow(program, mode="train")
    assert found.source(found.calls["bn"][0]).random is random


def kept(n: nn.Module, x: Tensor) -> Tensor:
    n.seen = y = n.conv(x)
    return n.bn(y)


USES: dict[str, tuple[Callable[..., Any], list[tuple[str, str, bool]]]] = {
    # what reads conv's output: kind, name, in place
    "module": (lambda n, x: n.bn(n.conv(x)), [("module", "bn", False)]),
    "moved": (lambda n, x: n.bn(n.conv(x).flip(1).clone()), [("module", "bn", False)]),
    "two": (
        lambda n, x: (lambda y: n.bn(y) + n.bn2(y[:, :, 1:]).sum())(n.conv(x)),
        [("module", "bn", False), ("module", "bn2", False)],
    ),
    "function": (lambda n, x: torch.tanh(n.conv(x)), [("function", "tanh", False)]),
    "in-place": (lambda n, x: n.conv(x).tanh_(), [("function", "tanh_", True)]),
    "module-in-place": (lambda n, x: n.relu(n.conv(x)), [("module", "relu", True)]),
    "output": (lambda n, x: {"a": [n.conv(x)]}, [("output", "", False)]),
    "output-and-norm": (
        lambda n, x: (lambda y: (y[:, :1], n.bn(y)))(n.conv(x)),
        [("module", "bn", False), ("output", "", False)],
    ),
    "kept": (kept, [("module", "bn", False), ("kept", "", False)]),
    "twice-in-one": (lambda n, x: (lambda y: y * y)(n.conv(x)), [("function", "mul", False)] * 2),
    "item": (lambda n, x: x * float(n.conv(x)[0, 0, 0, 0]), [("function", "_local_scalar_dense", False)]),
    "shape-only": (lambda n, x: x.new_zeros(n.conv(x).shape) + torch.zeros_like(n.conv(x)), []),
    "nothing": (lambda n, x: (n.conv(x), x)[1], []),
}


@pytest.mark.parametrize("name", USES)
def test_uses(name: str) -> None:
    program, expected = USES[name]
    found = flow(program)
    seen = [(use.kind, use.name, use.in_place) for use in found.uses(found.calls["conv"][0])]
    assert sorted(seen) == sorted(expected)


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "as-it-is": lambda y: y,
    "permute": lambda y: y.permute(0, 3, 1, 2),
    "reshape": lambda y: y.permute(0, 2, 3, 1).reshape(2, -1, 4),
    "slice": lambda y: y[1:, ::2, :, -2:],
    "expand": lambda y: y[:, :, :1].expand(-1, -1, 3, -1),
    "flip": lambda y: y.flip(1, 3),
    "roll": lambda y: y.roll(1, 1),
    "channel-shuffle": lambda y: F.channel_shuffle(y, 2),
    "pixel-shuffle": lambda y: F.pixel_shuffle(y, 2),
    "pixel-unshuffle": lambda y: F.pixel_unshuffle(y, 2),
    "repeat": lambda y: y.repeat(1, 2, 1, 1),
    "reflect": lambda y: F.pad(y, (1, 2, 1, 0), mode="reflect"),
    "replicate": lambda y: F.pad(y, (1, 2, 1, 0), mode="replicate"),
    "channels-last": lambda y: y.contiguous(memory_format=torch.channels_last),
    "clone-of-a-view": lambda y: y.transpose(1, 2)[:, 1:].clone().flatten(1),
    "unfold": lambda y: y.unfold(2, 2, 1),
    "two-slices": lambda y: y[:, 1:][:, :, 1:].unsqueeze(0).squeeze(1),
    "rot90": lambda y: torch.rot90(y, 1, (1, 2)),
    "diagonal": lambda y: y.diagonal(dim1=1, dim2=2),
    "as-strided": lambda y: y.as_strided((2, 3), (96, 24), 24),
}


@pytest.mark.parametrize("name", MOVES)
def test_labels_are_the_channels_that_values_had(name: str) -> None:
    """The oracle: the same moves of a tensor that holds its channels' numbers."""
    move = MOVES[name]
    found = flow(lambda n, x: torch.tanh(move(n.conv(x))))
    call = found.calls["conv"][0]
    (use,) = found.uses(call)
    channels = torch.arange(4.0).view(1, 4, 1, 1).expand(2, 4, 4, 6).contiguous()
    assert torch.equal(found.labels(call.outputs[0], 1, use), move(channels).long())


def test_labels_of_memory_that_is_not_the_source() -> None:
    found = flow(lambda n, x: torch.tanh(torch.cat([n.conv(x), x], 1)))
    call = found.calls["conv"][0]
    assert [use.name for use in found.uses(call)] == ["cat"]


def test_levels_count_norms_on_the_longest_way() -> None:
    def program(n: nn.Module, x: Tensor) -> Tensor:
        a = n.bn(n.conv(x))
        b = n.bn2(F.relu(a)) + a
        c = n.side(x)
        return n.last(b + c.flip(1)) + n.side2(c)

    more = {name: nn.BatchNorm2d(4) for name in ("side", "side2", "last", "spare")}
    expected = {"bn": 1, "bn2": 2, "side": 1, "side2": 2, "last": 3}
    for mode in ("eval", "train"):
        assert flow(program, mode=mode, **more).levels() == expected  # type: ignore[arg-type]


def test_levels_of_one_norm_called_twice_in_a_row_and_of_fixed_ones() -> None:
    found = flow(lambda n, x: n.fixed(n.bn(n.bn(x))), fixed=FrozenBatchNorm2d(4))
    assert found.levels() == {"bn": 2, "fixed": 3}


def test_memory_that_is_used_again_is_no_link() -> None:
    met = []

    def program(n: nn.Module, x: Tensor) -> Tensor:
        dead = set()
        for _ in range(10_000):
            dead.add(n.conv(x).data_ptr())
            z = torch.ones(2, 4, 4, 6)
            if z.data_ptr() in dead:
                met.append(z.data_ptr())
                break
        return n.bn(z)

    found = flow(program)
    assert met
    assert found.source(found.calls["bn"][0]).name == "ones"
    assert not any(found.uses(call) for call in found.calls["conv"])


def test_exceptions_that_the_model_catches() -> None:
    class Raising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.inner(x)
            raise ValueError

    def program(n: nn.Module, x: Tensor) -> Tensor:
        try:
            return n.raising(x)
        except ValueError:
            return n.bn(n.conv(x))

    found = flow(program, raising=Raising())
    (call,) = found.calls["raising"]
    assert call.outputs == ()
    assert found.source(found.calls["bn"][0]).name == "conv"
    assert found.calls["bn"][0].parent is found.calls[""][0]
    assert found.calls["raising.inner"][0].is_within(call)


def test_what_a_model_raises() -> None:
    with pytest.raises(ModelError, match="evaluation mode"):
        record(nn.Linear(3, 2), torch.randn(2, 4))
    found = record(nn.BatchNorm1d(3), torch.randn(1, 3))
    assert found.eval is not None
    assert found.train is None
    assert "more than 1 value per channel" in found.failures["train"]


def test_modules_have_their_first_name() -> None:
    bn = nn.BatchNorm2d(4)
    found = flow(lambda n, x: n.b(n.a(x)), a=bn, b=bn)
    assert [len(found.calls[name]) for name in ("a",)] == [2]
    assert "b" not in found.calls
    assert [call.index for call in found.calls["a"]] == [0, 1]
    assert found.norms >= {"a"}
    assert "b" not in found.norms


def test_calls_have_their_mode_and_place() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), nn.ReLU())
    found = record(model, torch.randn(4, 3))
    for mode, training in (("eval", False), ("train", True)):
        seen = found.flow(mode)  # type: ignore[arg-type]
        assert seen is not None
        assert list(seen.calls) == ["", "0", "0.0", "0.1", "1"]
        assert {call.training for calls in seen.calls.values() for call in calls} == {training}
        assert [child.module for child in seen.calls[""][0].children] == ["0", "1"]
        assert all(call.begin <= call.end for calls in seen.calls.values() for call in calls)


def test_parameters_and_who_reads_them() -> None:
    found = flow(lambda n, x: n.bn(n.conv(x)) * n.conv.weight.mean() + n.bn.running_mean.sum())
    assert found.readers_of_parameter("conv.weight") == {"conv", ""}
    assert found.readers_of_parameter("bn.running_mean") == {"bn", ""}
    assert found.readers_of_parameter("bn.weight") == {"bn"}
    assert found.readers_of_parameter("bn2.weight") == frozenset()


def test_tied_weights_have_all_their_names() -> None:
    a, b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    b.weight = a.weight
    found = flow(lambda n, x: n.b(n.a(x)), a=a, b=b)
    assert ("a.weight", "b.weight") in found.parameters.values()


def test_what_other_threads_do_is_not_seen() -> None:
    """As the documentation says; what it computed is known to be unknown."""

    def program(n: nn.Module, x: Tensor) -> Tensor:
        y = n.conv(x)
        found = []
        thread = threading.Thread(target=lambda: found.append(y.detach() * 2))
        thread.start()
        thread.join()
        return n.bn(found[0])

    found = flow(program)
    assert found.source(found.calls["bn"][0]).kind == "unknown"


@pytest.mark.parametrize(
    "leave", [lambda y: torch.from_numpy(y.numpy().copy()), lambda y: torch.tensor(y.tolist())]
)
def test_values_that_leave_torch_come_from_somewhere_unknown(leave: Callable[[Tensor], Tensor]) -> None:
    found = flow(lambda n, x: n.bn(leave(n.conv(x))))
    assert found.source(found.calls["bn"][0]).kind in ("unknown", "function")
    assert found.source(found.calls["bn"][0]).name != "conv"


def test_the_model_stays_as_it_was() -> None:
    model = make()
    x = torch.randn(4, 3)
    model.double()
    model.cached = None
    before = look_around(model)
    record(model, x.double())
    same = look_around(model) == before
    assert same


def test_call_in_place_of_inputs() -> None:
    found = record(
        Net(lambda n, x: n.bn(x), bn=nn.BatchNorm2d(4)), call=lambda model: model(X * 2), modes=("eval",)
    )
    assert found.train is None
    assert found.eval is not None
    assert found.eval.source(found.eval.calls["bn"][0]).kind == "input"


def test_what_is_printed_is_short() -> None:
    found = record(Net(lambda n, x: n.bn(n.conv(x)).relu(), **parts()), X)
    seen = found.eval
    assert seen is not None
    assert repr(seen) == f"Flow(eval, {len(seen.calls)} modules, {len(seen.ops)} operations)"
    (call,) = seen.calls["bn"]
    assert repr(call) == f"Call('bn', 0, eval, operations {call.begin} to {call.end})"
    (use,) = seen.uses(call)
    assert repr(use.op) == f"Op({len(seen.ops) - 1}, 'relu', in '')"
    assert max(len(repr(part)) for part in (found, use, seen.source(call))) < 400


def test_a_place_says_nothing_of_what_is_done_there() -> None:
    seen = flow(lambda n, x: n.conv(x).relu_())
    (call,) = seen.calls["conv"]
    changed, *_rest = seen.uses(call)
    assert changed.in_place
    assert changed.where == "relu_ in the model itself"
