"""Statistics move once per optimiser step, to the bit as if every step had one forward pass."""

import copy
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks
from torch.utils.checkpoint import checkpoint

import xhat
from tests.surgery.users import BatchNormAct
from xhat.errors import ModelError, UsageError
from xhat.norms import batch_norms
from xhat.surgery import freeze_, update_once
from xhat.unchanged import unchanged

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
ONCE = {"update_once": update_once, "nested": lambda model: nested(model)}
BATCHES = [torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(i)) + i for i in range(4)]


@contextmanager
def nested(model: nn.Module) -> Iterator[None]:
    with update_once(model), update_once(model):
        yield


class Net(nn.Module):
    """Blocks that are checkpointed on demand."""

    def __init__(self, momentum: float | None, use_reentrant: bool | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.use_reentrant = use_reentrant
        self.first = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=momentum), nn.Tanh(), nn.Conv2d(4, 4, 1)
        )
        # The last thing a checkpoint recomputes is a BN, within whose forward torch stops by an exception.
        self.second = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), BatchNormAct(4, momentum=momentum))
        self.third = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, momentum=momentum))

    def forward(self, x: Tensor) -> Tensor:
        for block in (self.first, self.second, self.third):
            options = {"use_reentrant": self.use_reentrant}
            x = block(x) if self.use_reentrant is None else checkpoint(block, x, **options)
        return x.mean((2, 3))


Step = Callable[[nn.Module, torch.optim.Optimizer, Tensor], None]


def plain(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    net(x).square().sum().backward()
    optimizer.step()


def train(
    net: nn.Module, once: Callable[[nn.Module], Any] = nullcontext, step: Step = plain
) -> dict[str, Tensor]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with once(net):
        for x in BATCHES:
            step(net, optimizer, x.clone().requires_grad_())  # or a reentrant checkpoint has no gradient
    return net.state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def count(net: nn.Module) -> set[int]:
    return {int(layer.num_batches_tracked) for layer in batch_norms(net).values()}  # type: ignore[arg-type]


def hooks(net: nn.Module) -> int:
    return len(_global_optimizer_post_hooks) + sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._forward_hooks_always_called)
        for m in net.modules()
    )


@pytest.mark.parametrize("once", ONCE.values(), ids=ONCE)
@pytest.mark.parametrize("momentum", [0.1, 0.9, None])
@pytest.mark.parametrize("use_reentrant", [None, True, False])
def test_checkpointing_ends_as_plain_training(
    use_reentrant: bool | None, momentum: float | None, once: Callable[[nn.Module], Any]
) -> None:
    expected = train(Net(momentum, None))
    net = Net(momentum, use_reentrant)
    buffers = list(net.buffers())
    assert same(train(net, once), expected)
    assert all(a is b for a, b in zip(net.buffers(), buffers, strict=True))
    assert hooks(net) == 0
    assert count(net) == {len(BATCHES)}


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_torch_alone_updates_twice(use_reentrant: bool) -> None:
    net = Net(0.1, use_reentrant)
    expected = train(Net(0.1, None))
    found = train(net)
    assert count(net) == {2 * len(BATCHES)}
    assert all(torch.equal(found[key], value) != key.endswith(STATISTICS) for key, value in expected.items())


def test_an_exception_stops_a_recomputation_within_the_last_layer() -> None:
    """What the case above relies on: torch's early stop leaves BN's forward by an exception."""
    net = Net(0.1, False)
    stopped = []

    def look(_module: nn.Module, _args: Any, output: Tensor | None) -> None:
        stopped.append(output is None)

    net.third[1].register_forward_hook(look, always_call=True)
    before = {}
    with update_once(net):
        out = net(BATCHES[0].clone().requires_grad_()).sum()
        before = copy.deepcopy(net.state_dict())
        out.backward()
        assert same(net.state_dict(), before)
    assert stopped == [False, True]
    assert same(net.state_dict(), before)


# Further forward passes.


def sam(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    """Sharpness-aware minimisation: the step's gradient is taken at weights moved up the gradient."""
    optimizer.zero_grad()
    net(x).square().sum().backward()
    moves = [(p, 0.05 * p.grad) for p in net.parameters() if p.grad is not None]
    with torch.no_grad():
        for parameter, move in moves:
            parameter += move
    optimizer.zero_grad()
    net(x).square().sum().backward()
    with torch.no_grad():
        for parameter, move in moves:
            parameter -= move
    optimizer.step()


def consistency(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    (net(x).square().sum() + (net(x + 5) - net(x * 3)).square().sum()).backward()
    optimizer.step()


def closure(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    def loss() -> Tensor:
        optimizer.zero_grad()
        net(x + 5)
        out: Tensor = net(x).square().sum()
        out.backward()
        return out

    net(x)
    optimizer.step(loss)  # type: ignore[arg-type]


def accumulation(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    for part in (x, x + 3, x + 4):
        net(part).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("step", [sam, consistency, closure, accumulation])
def test_only_the_first_pass_of_a_step_counts(step: Step, momentum: float | None) -> None:
    expected, net = Net(momentum, None), Net(momentum, None)
    for x in BATCHES:
        step(frozen := copy.deepcopy(expected), torch.optim.SGD(frozen.parameters(), lr=0.1), x)
        expected(x)  # the step's only pass that counts
        with torch.no_grad():
            for parameter, moved in zip(expected.parameters(), frozen.parameters(), strict=True):
                parameter.copy_(moved)
    assert same(train(net, update_once, step), expected.state_dict())
    assert count(net) == {len(BATCHES)}


def test_further_passes_normalise_with_their_batch() -> None:
    net, x = Net(0.1, None), BATCHES[1]
    expected = copy.deepcopy(net)(x)
    with update_once(net):
        net(BATCHES[0])
        before = copy.deepcopy(net.state_dict())
        assert torch.equal(net(x), expected)
        # momentum=0 would make NaN of this: 0·inf.
        net(torch.full_like(x, float("inf")))
    assert same(net.state_dict(), before)


def test_which_optimisers_end_a_step() -> None:
    net, other = Net(0.1, None), nn.Linear(2, 2)
    optimizers = [
        torch.optim.SGD(other.parameters(), lr=0.1),
        torch.optim.Adam([*other.parameters(), net.third[0].bias], lr=0.1),
        torch.optim.LBFGS(net.parameters(), max_iter=3),
    ]

    def loss() -> Tensor:
        net.zero_grad()
        out = net(BATCHES[0]).square().sum() + other(torch.ones(2)).sum()
        out.backward()
        return out

    with update_once(net):
        for optimizer, expected in zip(optimizers, (1, 1, 2), strict=True):
            optimizer.step(loss)  # type: ignore[arg-type]
            assert count(net) == {expected}
        loss()
        assert count(net) == {3}
    with update_once(net):  # a new block is a new step
        loss()
        loss()
    assert count(net) == {4}
    loss()
    loss()
    assert count(net) == {6}


def test_a_layer_called_twice_in_a_pass_counts_once() -> None:
    layer, (x, y) = nn.BatchNorm2d(3), BATCHES[:2]
    expected = copy.deepcopy(layer)
    expected(x)
    with update_once(layer):
        layer(layer(x) + y)
    assert same(layer.state_dict(), expected.state_dict())


# What is left alone.


def test_frozen_and_evaluation_mode_are_not_concerned() -> None:
    net = Net(0.1, None)
    freeze_(net.first)
    net.second.eval()
    before = copy.deepcopy(net.state_dict())
    with update_once(net):
        net(BATCHES[0])
        assert [int(x) for k, x in net.state_dict().items() if k.endswith("tracked")] == [0, 0, 1]
        net.second.train()  # its first training pass is still to come
        net(BATCHES[1])
        assert [int(x) for k, x in net.state_dict().items() if k.endswith("tracked")] == [0, 1, 1]
    assert same(
        {k: v for k, v in net.state_dict().items() if k.startswith("first")},
        {k: v for k, v in before.items() if k.startswith("first")},
    )


def test_layers_without_statistics_or_input() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.LazyBatchNorm2d())
    with update_once(net):
        for x in BATCHES:
            net(x)
    assert net[1].num_batches_tracked == 1


def test_probes_do_not_count() -> None:
    net = Net(0.1, None)
    with update_once(net):
        with unchanged(net):
            net(BATCHES[0])
        net(BATCHES[1])
        with unchanged(net):
            net(BATCHES[2])
    expected = Net(0.1, None)
    expected(BATCHES[1])
    assert same(net.state_dict(), expected.state_dict())
    with unchanged(net), update_once(net):
        net(BATCHES[0])
        net(BATCHES[0])
        assert count(net) == {2}


def copies(net: nn.Module) -> list[nn.Module]:
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    return [copy.deepcopy(net), torch.load(buffer, weights_only=False)]


def test_copies_made_within_the_block_are_plain() -> None:
    net = Net(0.1, None)
    with update_once(net):
        net(BATCHES[0])
        found = copies(net)
        for other in found:
            other(BATCHES[0])
            other(BATCHES[0])
            assert count(other) == {3}
    for other in found:
        other(BATCHES[0])
        assert count(other) == {4}
    assert count(net) == {1}


# Exceptions.


class Failing(nn.BatchNorm2d):
    error: BaseException | None = None

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if self.error is not None:
            raise self.error
        return out


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt()])
def test_statistics_are_put_back_when_a_forward_fails(error: BaseException) -> None:
    layer, x = Failing(3), BATCHES[0]
    buffers = list(layer.buffers())
    before = {}

    def fail() -> None:
        layer.error = error
        try:
            layer(x)
        finally:
            layer.error = None

    def run() -> None:
        with update_once(layer):
            layer(x)
            before.update(copy.deepcopy(layer.state_dict()))
            with pytest.raises(type(error)):
                fail()
            layer(x)
            assert same(layer.state_dict(), before)
            fail()

    with pytest.raises(type(error)):
        run()
    assert same(layer.state_dict(), before)
    assert all(a is b for a, b in zip(layer.buffers(), buffers, strict=True))
    assert hooks(layer) == 0


def test_other_hooks_see_the_layers_own_buffers() -> None:
    layer, seen = nn.BatchNorm2d(3), []
    own = layer.running_mean
    handles = [
        layer.register_forward_pre_hook(lambda m, _: seen.append(m.running_mean)),
        layer.register_forward_hook(lambda m, *_: seen.append(m.running_mean)),
    ]
    with nested(layer):
        layer(BATCHES[0])
        layer(BATCHES[1])
    assert all(buffer is own for buffer in seen)
    assert len(seen) == 4
    for handle in handles:
        handle.remove()
    assert hooks(layer) == 0


# Compiled code.


def test_compiled_within_the_block() -> None:
    torch._dynamo.reset()
    net = Net(0.1, None)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with update_once(net):
        compiled = torch.compile(net, backend="eager", fullgraph=True)
        for x in BATCHES[:3]:
            compiled(x)
            plain(compiled, optimizer, x)
        assert count(net) == {3}
    compiled(BATCHES[0])
    compiled(BATCHES[0])
    assert count(net) == {5}
    torch._dynamo.reset()


@pytest.mark.parametrize("in_place", [True, False])
def test_what_is_compiled_already_is_refused(in_place: bool) -> None:
    net = Net(0.1, None)
    if in_place:
        net.second.compile(backend="eager")
        model, name = net, "'second'"
    else:
        model, name = torch.compile(net, backend="eager"), "the model"  # type: ignore[assignment]
    with pytest.raises(ModelError, match=f"{name} is compiled already"), update_once(model):
        pass
    assert hooks(net) == 0


def test_a_model_without_batch_norms() -> None:
    with pytest.raises(UsageError, match="Linear has no batch norm"), update_once(nn.Linear(2, 2)):
        pass


def test_the_name_is_had_from_xhat() -> None:
    assert xhat.update_once is update_once
