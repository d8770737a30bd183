"""A model comes out of a probe bit for bit as it went in, whatever the probe did and however it ended."""

import random
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

from tests.landscape.everything import Counting, look_around, make
from xhat.unchanged import State, probe_depth, unchanged


def train_step(model: Counting) -> None:
    model.train()
    loss = model(torch.randn(4, 3)).sum()
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def put_buffer_into_graph(model: Counting) -> None:
    model.scale.mul_(model.norm.weight)


def fill(attribute: str, value: float) -> Callable[[Counting], None]:
    """Write in place, past autograd."""

    def write(model: Counting) -> None:
        model.get_parameter(attribute).data.fill_(value)

    return write


DISTURBANCES: dict[str, Callable[[Counting], object]] = {
    "train-step": train_step,
    "forward": lambda m: m(torch.randn(4, 3)),
    "shared-weight": fill("tied.weight", 3.0),
    "weight-to-nan": fill("inner.weight", torch.nan),
    "frozen-parameter": fill("inner.bias", 2.0),
    "float64": fill("experts.0.weight", 2.0),
    "gradient-in-place": lambda m: m.norm.weight.grad.fill_(0.0),  # -0.0 to 0.0 too
    "gradient-to-none": lambda m: m.zero_grad(set_to_none=True),
    "gradient-where-none-was": lambda m: setattr(m.experts[0].weight, "grad", torch.ones(3, 3).double()),
    "requires-grad": lambda m: m.requires_grad_(False),
    "thaw": lambda m: m.inner.bias.requires_grad_(True),
    "sign-of-zero": lambda m: m.signed.abs_(),
    "nan-to-number": lambda m: m.scale.nan_to_num_(),
    "non-persistent-buffer": lambda m: m.kept.add_(1),
    "replaced-buffer": lambda m: setattr(m, "kept", torch.zeros(5)),
    "buffer-to-none": lambda m: setattr(m, "kept", None),
    "buffer-from-none": lambda m: setattr(m, "nothing", torch.zeros(1)),
    "buffer-into-graph": put_buffer_into_graph,
    "num-batches-tracked": lambda m: m.norm.num_batches_tracked.add_(1),
    "statistics-of-an-expert": lambda m: m.experts[1].running_var.mul_(2),
    "modes": lambda m: m.eval(),
    "mode-of-one": lambda m: m.norm.train(),
    "dtype": lambda m: m.double(),
    "data-exchanged": lambda m: setattr(m.norm.bias, "data", torch.ones(3)),
    "data-resized": lambda m: setattr(m.norm.bias, "data", torch.ones(7)),
    "parameter-replaced": lambda m: setattr(m.norm, "weight", nn.Parameter(torch.ones(3))),
    "module-replaced": lambda m: setattr(m, "norm", nn.Identity()),
    "module-added": lambda m: m.add_module("more", nn.Linear(1, 1)),
    "expert-removed": lambda m: m.experts.__delitem__(0),
    "hook-added": lambda m: m.norm.register_forward_hook(lambda *_: None),
    "pre-hook-added": lambda m: m.register_forward_pre_hook(lambda *_: None),
    "hook-removed": lambda m: m.inner._forward_hooks.clear(),
    "counter": lambda m: setattr(m, "calls", 99),
    "list": lambda m: m.sizes.append(1),
    "dict": lambda m: m.options.pop("tensor"),
    "order-of-a-dict": lambda m: m.ordered.move_to_end("a"),
    "nested-list": lambda m: m.options["depth"]["now"].append(3),
    "tensor-in-a-dict": lambda m: m.options["tensor"].add_(1),
    "deque": lambda m: m.recent.append(torch.ones(1)),
    "tensor-in-a-deque": lambda m: m.recent[0].add_(1),
    "set": lambda m: m.names.add("b"),
    "tensor-in-a-tuple": lambda m: m.pair[0].add_(1),
    "list-in-a-tuple": lambda m: m.pair[1].append(1),
    "cached-tensor": lambda m: m.cached.add_(1),
    "cached-tensor-replaced": lambda m: setattr(m, "cached", None),
    "array": lambda m: np.add(m.array, 1, out=m.array),
    "hidden-module": lambda m: m.hidden[0].weight.data.zero_(),
    "attribute-added": lambda m: setattr(m, "more", 1),
    "attribute-removed": lambda m: delattr(m, "calls"),
    "torch-random": lambda m: torch.rand(1),
    "numpy-random": lambda m: np.random.rand(),  # noqa: NPY002
    "python-random": lambda m: random.random(),
    "own-torch-generator": lambda m: torch.rand(1, generator=m.generators[0]),
    "own-numpy-generator": lambda m: m.generators[1].random(),
    "own-python-generator": lambda m: m.generators[2].random(),
    "own-legacy-generator": lambda m: m.legacy.rand(),
}


@pytest.mark.parametrize("ending", [None, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("disturb", DISTURBANCES.values(), ids=DISTURBANCES)
def test_bit_for_bit(disturb: Callable[[Counting], object], ending: type[BaseException] | None) -> None:
    model = make()
    before = look_around(model)

    def probe() -> None:
        with unchanged(model):
            disturb(model)
            assert look_around(model) != before
            if ending:
                raise ending

    if ending is None:
        probe()
    else:
        with pytest.raises(ending):
            probe()
    assert look_around(model) == before


@pytest.mark.parametrize("seed", range(5))
def test_one_after_another(seed: int) -> None:
    model = make()
    before = look_around(model)
    with unchanged(model):
        for disturb in random.Random(seed).sample(list(DISTURBANCES.values()), 40):
            with suppress(Exception):  # some take away what another wants to alter
                disturb(model)
    assert look_around(model) == before


def test_dropout_draws_again_what_the_probe_drew() -> None:
    model, x = nn.Dropout(0.5), torch.ones(100)
    with unchanged(model):
        inside = model(x)
    assert torch.equal(model(x), inside)


def test_a_graph_from_before_can_still_be_differentiated() -> None:
    model = nn.Linear(2, 1)
    loss = model(torch.ones(1, 2)).square().sum()
    expected = torch.autograd.grad(loss, model.weight, retain_graph=True)[0]
    with unchanged(model):
        model.weight.data.mul_(2)
    loss.backward()
    assert model.weight.grad is not None
    assert torch.equal(model.weight.grad, expected)


class Locked(dict[str, int]):
    """As diffusers' FrozenDict: a dict that refuses changes."""

    def update(self, *args: object, **kwargs: object) -> None:
        raise TypeError("locked")

    clear = update  # type: ignore[assignment]


def test_a_container_that_refuses_changes_is_let_be() -> None:
    model = nn.Linear(1, 1)
    model.config = Locked(a=1)  # type: ignore[assignment]
    with unchanged(model):
        model.weight.data.zero_()
    assert model.config == {"a": 1}


def test_what_refers_to_itself() -> None:
    model = nn.Linear(1, 1)
    model.parents = [model]  # type: ignore[assignment]
    model.parents.append(model.parents)  # type: ignore[operator, union-attr]
    with unchanged(model):
        model.parents.clear()  # type: ignore[operator, union-attr]
    assert len(model.parents) == 2  # type: ignore[arg-type]


def test_blocks_within_blocks() -> None:
    model = make()
    before, depth = look_around(model), probe_depth()
    with unchanged(model):
        train_step(model)
        between = look_around(model)
        with unchanged(model):
            train_step(model)
            assert probe_depth() == depth + 2
        assert look_around(model) == between
    assert look_around(model) == before
    assert probe_depth() == depth


def test_a_state_is_restored_as_often_as_asked_but_for_what_moves() -> None:
    model = make()
    moving = model.inner.weight
    state = State(model, without=[moving])
    drawn = []
    for step in range(1, 4):
        moving.data.fill_(step)
        model.norm.bias.data.fill_(step)
        state.restore()
        drawn.append(torch.rand(3))
        assert moving.eq(step).all()
        assert model.norm.bias.eq(0).all()
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
