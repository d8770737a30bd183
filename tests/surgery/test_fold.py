"""Folding keeps what a model computes in evaluation mode, whatever it takes, returns and holds."""

import copy
import random
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.landscape.everything import look_around
from tests.surgery.folding import (
    IMAGE,
    check,
    pair,
    weight_norm_of_old,
)
from tests.surgery.nets import Net, leaves, randomise_
from tests.surgery.users import BatchNormAct
from xhat import fold
from xhat.errors import ModelError

pytestmark = pytest.mark.usefixtures("quick")


@dataclass
class Sample:
    image: Tensor
    name: str
    sizes: dict[str, list[int]]


@dataclass(frozen=True)
class Found:
    logits: Tensor
    features: list[Tensor]


class Ordered(OrderedDict[str, Any]):
    """As libraries return it: values as attributes too."""

    def __getattr__(self, key: str) -> Any:
        return self[key]


CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = {
    "keywords": (
        lambda n, *, image, scale=1: n.net(image * scale),
        (),
        {"image": torch.randn(IMAGE), "scale": 2},
    ),
    "dict": (lambda n, batch: {"out": n.net(batch["image"])}, ({"image": torch.randn(IMAGE), "id": 3},), {}),
    "data-class": (
        lambda n, s: Found(n.net(s.image), [s.image]),
        (Sample(torch.randn(IMAGE), "a", {"sizes": [1, 2]}),),
        {},
    ),
    "list": (
        lambda n, images: [n.net(image) for image in images],
        ([torch.randn(IMAGE), torch.randn(IMAGE)],),
        {},
    ),
    "ordered": (lambda n, x: Ordered(a=(n.net(x), None), b="text"), (torch.randn(IMAGE),), {}),
    "written-container": (
        lambda n, batch: (batch.append(1), n.net(batch[0].mul_(2)))[1],
        ([torch.randn(IMAGE)],),
        {},
    ),
    "integers": (
        lambda n, x, at: n.net(x)[torch.arange(2), at],
        (torch.randn(IMAGE), torch.tensor([1, 3])),
        {},
    ),
    "minus-infinity": (
        lambda n, x: n.net(x).masked_fill(x.new_ones(()) > 0, -torch.inf),
        (torch.randn(IMAGE),),
        {},
    ),
    "nothing": (lambda n, x: str(n.net(x).shape), (torch.randn(IMAGE),), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_inputs_and_outputs_of_any_kind(name: str) -> None:
    program, inputs, kwargs = CALLS[name]
    inputs, kwargs = copy.deepcopy((inputs, kwargs))
    for leaf in leaves([inputs, kwargs]):
        if leaf.is_floating_point():
            leaf.data = leaf.double()
    torch.manual_seed(0)
    model = Net(program, net=pair())
    if name == "minus-infinity":
        found = fold(model, *inputs)
        assert (len(found.changes), found.max_abs_error) == (1, 0.0)
        return
    if name == "nothing":
        randomise_(model)
        assert fold(model, *inputs).max_abs_error == 0
        return
    assert len(check(model, inputs, kwargs=kwargs).changes) == 1


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05), (torch.float16, 5e-3)]
)
@pytest.mark.parametrize("mixed", [False, True])
def test_dtypes(dtype: torch.dtype, tolerance: float, mixed: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1, bias=False), BatchNormAct(8)
    )
    model.to(dtype)
    if mixed:  # as AMP keeps batch norms
        model[1].float()
        model[3].float()
    found = check(model, (torch.randn(IMAGE).to(dtype),), tolerance=tolerance)
    assert {parameter.dtype for parameter in found.model.parameters()} == {dtype}


def test_the_model_itself_is_a_batch_norm() -> None:
    found = fold(nn.BatchNorm1d(3), torch.randn(4, 3))
    assert [refusal.module for refusal in found.refusals] == [""]


def test_a_model_without_batch_norm() -> None:
    found = fold(nn.Linear(3, 2), torch.randn(4, 3))
    assert (found.changes, found.refusals, found.max_abs_error) == ((), (), 0.0)


def test_random_numbers_of_numpy_and_python() -> None:
    def program(n: Net, x: Tensor) -> Tensor:
        y = n.net(x)
        return y * float(np.random.rand()) + random.random() * torch.rand(1, dtype=x.dtype)  # noqa: NPY002

    model = Net(program, net=pair())
    x = torch.randn(IMAGE).double()
    before = look_around(model)
    found = fold(model, x)
    same = look_around(model) == before
    assert same
    assert len(found.changes) == 1


def test_a_forward_that_knows_the_model_from_outside() -> None:
    """A copy of the model still runs the original, whose statistics and modes must stay."""
    model = pair().train()
    model.forward = lambda x: model[3](model[2](model[1](model[0](x))))  # type: ignore[method-assign]
    x = torch.randn(IMAGE).double()
    before = look_around(model)
    found = fold(model, x)
    same = look_around(model) == before
    assert same
    assert [refusal.reason for refusal in found.refusals] == ["the example inputs did not reach it"]


def test_attributes_with_a_gradient_history() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = pair()
            weight_norm_of_old(self.net[3])
            self.seen: dict[str, list[Tensor]] = {"a": []}

        def forward(self, x: Tensor) -> Tensor:
            y = self.net(x)
            self.seen["a"].append(y)
            return y

    torch.manual_seed(0)
    model, x = Caching(), torch.randn(IMAGE).double()
    model(x)
    before = look_around(model)
    found = fold(model, x)
    same = look_around(model) == before
    assert same
    assert [change.module for change in found.changes] == ["net.1"]
    model.eval()
    torch.testing.assert_close(found.model(x), model(x))


def test_under_inference_mode_the_copy_can_be_trained() -> None:
    model, x = pair(), torch.randn(IMAGE).double()
    with torch.inference_mode():
        found = fold(model, x)
    found.model(x).sum().backward()


def test_outputs_whose_number_hangs_on_values() -> None:
    model = Net(lambda n, x: n.net(x)[n.net(x) > 0], net=pair())
    x = torch.randn(IMAGE).double()
    found = fold(model, x)
    assert [change.module for change in found.changes] == ["net.1"]


def test_a_model_that_cannot_be_called() -> None:
    with pytest.raises(ModelError, match="example inputs"):
        fold(pair(), torch.randn(2, 5, 6, 6).double())


def test_a_model_that_cannot_be_copied() -> None:
    model = pair()
    model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(ModelError, match="cannot be copied"):
        fold(model, torch.randn(IMAGE).double())


def test_compiled() -> None:
    model = torch.compile(pair(), backend="eager")
    x = torch.randn(IMAGE).double()
    randomise_(model)
    found = fold(model, x)
    assert [change.module for change in found.changes] == ["_orig_mod.1"]
    torch.testing.assert_close(found.model(x), model.eval()(x))


def test_twice_is_once() -> None:
    model, x = pair(), torch.randn(IMAGE).double()
    once = fold(model, x)
    again = fold(once.model, x)
    assert (again.changes, again.refusals) == ((), ())


def test_what_is_left_is_the_identity_and_the_class() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), BatchNormAct(4))
    randomise_(model)
    found = fold(model, torch.randn(IMAGE))
    assert type(found.model[1]) is nn.Identity
    assert [type(module).__name__ for module in found.model[3]] == ["Dropout", "ReLU"]
    assert [change.what for change in found.changes] == [
        "folded into 0 before it",
        "folded into 2 before it; drop, act of BatchNormAct stay",
    ]
    assert repr(found).startswith("Surgery(2 changed, 0 refused")
    assert found.to_frame()["done"].tolist() == [True, True]
