"""What every folded model must keep, and the small models that tests of folding share."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import weight_norm

from tests.landscape.everything import look, look_around
from tests.surgery.nets import Net, fresh, gap, norms_of, outputs, randomise_
from xhat import fold
from xhat.surgery import Surgery

EXACT = 1e-9  # of float64; folding is a handful of roundings
IMAGE, C2, C1, C3 = (2, 3, 5, 6), (2, 4, 5, 6), (2, 4, 7), (2, 4, 3, 4, 2)


@dataclass
class Case:
    """A model, and which of its batch norms must be folded; refused ones with words of the reason."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = IMAGE
    refused: dict[str, str] = field(default_factory=dict)


def check(
    model: nn.Module,
    inputs: tuple[Any, ...],
    refused: dict[str, str] | None = None,
    *,
    kwargs: dict[str, Any] | None = None,
    tolerance: float = EXACT,
    random: bool = True,
) -> Surgery:
    """Fold, and require all that must hold of every model."""
    if random:
        randomise_(model)
    refused, kwargs = refused or {}, kwargs or {}
    before = (look_around(model), look(inputs), look(kwargs))
    found = fold(model, *inputs, kwargs=kwargs)
    same = (
        look_around(model),
        look(inputs),
        look(kwargs),
    ) == before  # apart, since pytest would show all of it
    assert same
    names = norms_of(model)
    told = [change.module for change in found.changes] + [refusal.module for refusal in found.refusals]
    assert sorted(told) == sorted(names)
    reasons = {refusal.module: refusal.reason for refusal in found.refusals}
    assert reasons.keys() == refused.keys(), reasons
    for name, words in refused.items():
        assert words in reasons[name]
    assert not any(module.training for module in found.model.modules() if not hasattr(module, "stays"))
    for given in (inputs, fresh(inputs)):
        old, new = outputs(model, given, kwargs), outputs(found.model, given, kwargs)
        assert gap(old, new) <= tolerance
    gaps = [
        float((new - old).abs().max())
        for old, new in zip(outputs(model, inputs, kwargs), outputs(found.model, inputs, kwargs), strict=True)
        if old.is_floating_point()
    ]
    assert found.max_abs_error == pytest.approx(max(gaps), abs=1e-15)
    return found


def chain(*modules: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*copy.deepcopy(modules))


def linked(program: Callable[..., Any], **modules: nn.Module) -> Callable[[], nn.Module]:
    return lambda: Net(program, **copy.deepcopy(modules))


class Functional(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(super().forward(x))


class SamePadding(nn.Conv2d):
    """Pads in its own forward."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 2, 0)))


def run_case(case: Case) -> None:
    torch.manual_seed(3)
    x = torch.randn(case.shape, dtype=torch.float64)
    model = case.make().double()
    if any(nn.parameter.is_lazy(parameter) for parameter in model.parameters()):
        assert fold(model, x).refusals == ()
        assert all(nn.parameter.is_lazy(parameter) for parameter in model.parameters())
        with torch.no_grad():
            model(x)
    found = check(model, (x,), case.refused)
    for change in found.changes:
        module = found.model.get_submodule(change.module)
        if not isinstance(module, Functional):
            assert change.module not in norms_of(found.model)


def pair() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)).double()


def weight_norm_of_old(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weight_norm(layer)
