"""Folding keeps what a model computes in evaluation mode, or says which module forbids it."""

import copy
import random
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from tests.landscape.everything import look, look_around
from tests.surgery.nets import (
    FrozenBatchNorm2d,
    Net,
    fresh,
    gap,
    leaves,
    norms_of,
    outputs,
    quickly,
    randomise_,
)
from tests.surgery.users import BatchNormAct
from xhat import fold, freeze_
from xhat.errors import ModelError
from xhat.surgery import Surgery

EXACT = 1e-9  # of float64; folding is a handful of roundings
IMAGE = (2, 3, 5, 6)


@pytest.fixture(autouse=True, scope="module")
def _quickly() -> Iterator[None]:
    with quickly():
        yield


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


class Before(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.relu(x))


class Offset(nn.BatchNorm2d):
    """γ is weight + 1."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight + 1, self.bias, eps=self.eps)


class Twice(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(super().forward(x))


class Formula(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        scale = (self.weight / (self.running_var + self.eps).sqrt()).view(1, -1, 1, 1)
        return (x - self.running_mean.view(1, -1, 1, 1)) * scale + self.bias.view(1, -1, 1, 1)


class Detectron(FrozenBatchNorm2d):
    """Constant statistics, by torch's function."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


Detectron.__name__ = "FrozenBatchNorm2d"


class Standardised(nn.Conv2d):
    """Weights of mean 0 and variance 1, whatever they are scaled by."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return self._conv_forward(x, weight, self.bias)


class SamePadding(nn.Conv2d):
    """Pads in its own forward."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 2, 0)))


class Doubling(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class StaysInTraining(nn.BatchNorm2d):
    stays = True

    def train(self, mode: bool = True) -> "StaysInTraining":
        super().train(True)
        return self


C2, C1, C3 = (2, 4, 5, 6), (2, 4, 7), (2, 4, 3, 4, 2)
BEHIND: dict[str, Case] = {
    "conv1d": Case(chain(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)), C1),
    "conv2d": Case(chain(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)), C2),
    "conv3d": Case(chain(nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6)), C3),
    "transposed1d": Case(chain(nn.ConvTranspose1d(4, 6, 3, stride=2), nn.BatchNorm1d(6)), C1),
    "transposed2d": Case(chain(nn.ConvTranspose2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)), C2),
    "transposed3d": Case(chain(nn.ConvTranspose3d(4, 6, 2), nn.BatchNorm3d(6)), C3),
    "transposed1d-grouped": Case(chain(nn.ConvTranspose1d(4, 6, 3, groups=2), nn.BatchNorm1d(6)), C1),
    "transposed2d-grouped": Case(
        chain(nn.ConvTranspose2d(4, 8, 3, stride=2, output_padding=1, groups=2), nn.BatchNorm2d(8)), C2
    ),
    "transposed3d-depthwise": Case(chain(nn.ConvTranspose3d(4, 4, 2, groups=4), nn.BatchNorm3d(4)), C3),
    "grouped": Case(chain(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), C2),
    "depthwise": Case(chain(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)), C2),
    "dilated": Case(chain(nn.Conv2d(4, 6, 2, dilation=2, stride=2), nn.BatchNorm2d(6)), C2),
    "same": Case(chain(nn.Conv2d(4, 6, (3, 5), padding="same"), nn.BatchNorm2d(6)), C2),
    "circular": Case(chain(nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(6)), C2),
    "no-conv-bias": Case(chain(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)), C2),
    "linear": Case(chain(nn.Linear(4, 6), nn.BatchNorm1d(6)), (3, 4)),
    "linear-no-bias": Case(chain(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6)), (3, 4)),
    "linear-3d": Case(
        linked(
            lambda n, x: n.bn(n.fc(x).transpose(1, 2)).transpose(1, 2),
            fc=nn.Linear(4, 6),
            bn=nn.BatchNorm1d(6),
        ),
        (2, 5, 4),
    ),
    "linear-4d-flattened": Case(
        linked(
            lambda n, x: n.bn(n.fc(x).flatten(0, 2)).view(*x.shape[:-1], 6),
            fc=nn.Linear(4, 6),
            bn=nn.BatchNorm1d(6),
        ),
        (2, 3, 5, 4),
    ),
    "linear-as-channels-last": Case(
        linked(
            lambda n, x: n.bn(n.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
            fc=nn.Linear(3, 6),
            bn=nn.BatchNorm2d(6),
        )
    ),
    "linear-3d-of-another-axis": Case(
        chain(nn.Linear(4, 6), nn.BatchNorm1d(5)), (2, 5, 4), {"1": "another axis"}
    ),
    "linear-3d-of-another-axis-equally-long": Case(
        chain(nn.Linear(4, 6), nn.BatchNorm1d(6)), (2, 6, 4), {"1": "another axis"}
    ),
    "not-affine": Case(chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False))),
    "linear-not-affine": Case(chain(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False)), (3, 4)),
    "norm-without-bias": Case(chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, bias=False))),
    "sync": Case(chain(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4))),
    "large-eps": Case(chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.3))),
    "momentum-none": Case(chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None))),
    "activation-modules": Case(chain(nn.Conv2d(3, 4, 3), BatchNormAct(4), nn.Conv2d(4, 2, 1))),
    "activation-functional": Case(chain(nn.Conv2d(3, 4, 3), Functional(4), nn.Conv2d(4, 2, 1))),
    "frozen-lookalike": Case(chain(nn.Conv2d(3, 4, 3), FrozenBatchNorm2d(4))),
    "frozen-lookalike-of-a-function": Case(chain(nn.Conv2d(3, 4, 3), Detectron(4))),
    "frozen": Case(lambda: freeze_(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train())),
    "frozen-affine": Case(
        lambda: freeze_(nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct(4)).train(), affine=True)
    ),
    "lazy": Case(
        lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))
    ),
    "same-padding": Case(chain(SamePadding(3, 4, 3), nn.BatchNorm2d(4))),
    "two-in-a-row": Case(chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4))),
    "three-in-a-row": Case(
        chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    ),
    "chain": Case(
        chain(
            *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
            *(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten()),
            *(nn.Linear(120, 5), nn.BatchNorm1d(5)),
        )
    ),
    "changed-in-place-behind": Case(
        linked(lambda n, x: n.bn(n.conv(x)).relu_().add_(1), conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4))
    ),
    "siamese": Case(
        linked(
            lambda n, x: n.bn(n.conv(x)) - n.bn(n.conv(x.flip(3))),
            conv=nn.Conv2d(3, 4, 3),
            bn=nn.BatchNorm2d(4),
        )
    ),
    "pixel-shuffle-of-other-axis": Case(
        linked(
            lambda n, x: n.bn(n.conv(x).unflatten(1, (4, 2)).flatten(2, 3)),
            conv=nn.Conv2d(3, 8, 3),
            bn=nn.BatchNorm2d(4),
        ),
        refused={"bn": "another axis"},
    ),
    "channels-reordered": Case(
        linked(
            lambda n, x: n.bn(F.channel_shuffle(n.conv(x), 2).flip(1)),
            conv=nn.Conv2d(3, 4, 3),
            bn=nn.BatchNorm2d(4),
        )
    ),
    "some-of-the-channels": Case(
        linked(lambda n, x: n.bn(n.conv(x)[:, 1:5:2]), conv=nn.Conv2d(3, 6, 3), bn=nn.BatchNorm2d(2))
    ),
    "channels-repeated": Case(
        linked(
            lambda n, x: n.bn(n.conv(x).repeat(1, 2, 1, 1)), conv=nn.Conv2d(3, 2, 3), bn=nn.BatchNorm2d(4)
        ),
        refused={"bn": "the same output of conv"},
    ),
    "padded-in-between": Case(
        linked(
            lambda n, x: n.bn(F.pad(n.conv(x), (1, 1, 1, 1), mode="reflect")),
            conv=nn.Conv2d(3, 4, 3),
            bn=nn.BatchNorm2d(4),
        )
    ),
    "one-layer-two-places": Case(
        linked(
            lambda n, x: n.out(n.bn(n.conv(x)).mean((2, 3))) + n.out(x.mean((2, 3)).repeat(1, 2)[:, :4]),
            conv=nn.Conv2d(3, 4, 3),
            bn=nn.BatchNorm2d(4),
            out=nn.Linear(4, 2),
        )
    ),
    "nested": Case(
        lambda: nn.Sequential(
            nn.ModuleDict({"a": nn.Conv2d(3, 4, 1)})["a"],
            Net(
                lambda n, x: n.parts[0][1](n.parts[0][0](x)),
                parts=nn.ModuleList([nn.ModuleList([nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)])]),
            ),
        )
    ),
    "data-parallel": Case(lambda: nn.DataParallel(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))),
    "under-two-names": Case(
        lambda: (lambda bn: Net(lambda n, x: n.b(n.conv(x)), conv=nn.Conv2d(3, 4, 3), a=bn, b=bn))(
            nn.BatchNorm2d(4)
        )
    ),
    "weights-that-want-no-gradient": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).requires_grad_(False)
    ),
}

FRONT: dict[str, Case] = {
    "linear": Case(chain(nn.BatchNorm1d(4), nn.Linear(4, 6)), (3, 4)),
    "linear-no-bias": Case(chain(nn.BatchNorm1d(4), nn.Linear(4, 6, bias=False)), (3, 4)),
    "conv1d": Case(chain(nn.BatchNorm1d(4), nn.Conv1d(4, 6, 3)), C1),
    "conv2d": Case(chain(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, stride=2)), C2),
    "conv3d": Case(chain(nn.BatchNorm3d(4), nn.Conv3d(4, 6, 2, bias=False)), C3),
    "grouped": Case(chain(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2)), C2),
    "depthwise": Case(chain(nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3, groups=4)), C2),
    "reflect": Case(chain(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect")), C2),
    "replicate": Case(
        chain(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding="same", padding_mode="replicate")), C2
    ),
    "circular": Case(
        chain(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="circular")), C2
    ),
    "circular-grouped": Case(
        chain(nn.BatchNorm1d(4), nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular", groups=2)), C1
    ),
    "pad-module": Case(
        chain(nn.BatchNorm2d(4), nn.ReplicationPad2d(2), nn.ReflectionPad2d(1), nn.Conv2d(4, 6, 3)), C2
    ),
    "transposed-of-one": Case(chain(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 1, groups=2)), C2),
    "flatten": Case(chain(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(90, 2))),
    "linear-nd": Case(
        linked(
            lambda n, x: n.fc(n.bn(x).permute(0, 2, 3, 1)),
            bn=nn.BatchNorm2d(3),
            fc=nn.Linear(3, 2, bias=False),
        )
    ),
    "frozen-lookalike": Case(chain(FrozenBatchNorm2d(3), nn.Conv2d(3, 4, 3))),
    "pixel-unshuffle": Case(
        chain(nn.BatchNorm2d(3), nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 1)), (2, 3, 4, 6)
    ),
    "two-layers": Case(
        linked(
            lambda n, x: (n.a(n.bn(x)), n.b(n.bn(x)[:, :, 1:])),
            bn=nn.BatchNorm2d(3),
            a=nn.Conv2d(3, 2, 3),
            b=nn.Conv2d(3, 2, 1),
        )
    ),
    "both-sides": Case(
        chain(
            nn.BatchNorm2d(3),
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 2, 1),
        )
    ),
    "two-in-a-row": Case(chain(nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3))),
    "three-in-a-row": Case(
        chain(nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3))
    ),
    "zeros": Case(
        chain(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)),
        refused={"0": "its input comes from the model's input"},
    ),
    "same": Case(chain(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding="same")), refused={"0": "input"}),
    "transposed": Case(
        chain(nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 4, 2, stride=2)), refused={"0": "input"}
    ),
    "pads-in-forward": Case(chain(nn.BatchNorm2d(3), SamePadding(3, 4, 3)), refused={"0": "input"}),
    "zeros-in-between": Case(
        chain(nn.BatchNorm2d(3), nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3)), refused={"0": "input"}
    ),
    "activation-in-between": Case(
        chain(nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)), (3, 4), {"0": "input"}
    ),
    "subclass": Case(chain(BatchNormAct(3), nn.Conv2d(3, 4, 3)), refused={"0": "input"}),
    "layer-with-other-inputs": Case(
        linked(lambda n, x: n.fc(n.bn(x)) + n.fc(x), bn=nn.BatchNorm1d(4), fc=nn.Linear(4, 4)),
        (3, 4),
        {"bn": "input"},
    ),
    "also-read": Case(
        linked(lambda n, x: (lambda y: n.fc(y) + y)(n.bn(x)), bn=nn.BatchNorm1d(4), fc=nn.Linear(4, 4)),
        (3, 4),
        {"bn": "input"},
    ),
    "input-overwritten-later": Case(
        linked(lambda n, x: n.fc((n.bn(x), x.mul_(2))[0]), bn=nn.BatchNorm1d(4), fc=nn.Linear(4, 4)),
        (3, 4),
        {"bn": "input"},
    ),
    "input-zeroed-later": Case(
        linked(lambda n, x: n.fc((n.bn(x), x.zero_())[0]), bn=nn.BatchNorm1d(4), fc=nn.Linear(4, 4)),
        (3, 4),
        {"bn": "input"},
    ),
}


def between(program: Callable[..., Any]) -> Callable[[], nn.Module]:
    return linked(program, conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4), other=nn.Conv2d(3, 4, 3))


def kept(n: nn.Module, x: Tensor) -> Tensor:
    n.last = n.conv(x)
    return n.bn(n.last)


def kept_clone(n: nn.Module, x: Tensor) -> Tensor:
    y = n.conv(x)
    n.__dict__.setdefault("seen", []).append(y.detach().clone())
    return n.bn(y)


def overwritten(n: nn.Module, x: Tensor) -> Tensor:
    y = n.conv(x)
    z = n.bn(y)
    y.zero_()
    return z + y


def twice(n: nn.Module, x: Tensor) -> Tensor:
    return n.bn(n.conv(x)) + n.conv(x.flip(2))


class InSlots:
    __slots__ = ("first", "hidden")

    def __init__(self, first: Tensor, hidden: Tensor) -> None:
        self.first, self.hidden = first, hidden


class Callback(nn.Module):
    """Gives a part of what it computed only when it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        y = self.conv(x)
        return self.bn(y), lambda: y


BETWEEN: dict[str, Case] = {
    "relu-in-place": Case(between(lambda n, x: n.bn(F.relu_(n.conv(x)))), refused={"bn": "relu_"}),
    "changed-in-place-by-a-view": Case(
        between(lambda n, x: n.bn((lambda y: (y[:, 0].mul_(2), y)[1])(n.conv(x)))), refused={"bn": "mul_"}
    ),
    "changed-in-place-later": Case(
        between(lambda n, x: (lambda y: n.bn(y) + y.mul_(2))(n.conv(x))),
        refused={"bn": "changed in place by mul_"},
    ),
    "overwritten-later": Case(between(overwritten), refused={"bn": "zero_"}),
    "relu": Case(between(lambda n, x: n.bn(F.relu(n.conv(x)))), refused={"bn": "relu"}),
    "a-sum-before": Case(
        between(lambda n, x: n.bn(n.conv(x) + n.other(x))), refused={"bn": "its input comes from add"}
    ),
    "a-sum-beside": Case(
        between(lambda n, x: (lambda y: n.bn(y) + y)(n.conv(x))), refused={"bn": "conv also reaches add"}
    ),
    "a-cat-before": Case(
        linked(
            lambda n, x: n.bn(torch.cat([n.a(x), n.b(x)], 1)),
            a=nn.Conv2d(3, 2, 3),
            b=nn.Conv2d(3, 2, 3),
            bn=nn.BatchNorm2d(4),
        ),
        refused={"bn": "its input comes from cat"},
    ),
    "returned": Case(
        between(lambda n, x: (lambda y: (n.bn(y), y[:, :1]))(n.conv(x))), refused={"bn": "the model's output"}
    ),
    "returned-in-slots": Case(
        between(lambda n, x: (lambda y: InSlots(n.bn(y), y))(n.conv(x))), refused={"bn": "the model's output"}
    ),
    "returned-in-a-function": Case(Callback, refused={"bn": "outside"}),
    "kept": Case(between(kept), refused={"bn": "conv also reaches a place outside"}),
    "kept-clone": Case(between(kept_clone), refused={"bn": "conv also reaches a place outside"}),
    "conv-called-twice": Case(between(twice), refused={"bn": "conv is called 2 times"}),
    "norm-called-twice": Case(
        between(lambda n, x: n.bn(n.conv(x)) + n.bn(n.other(x))),
        refused={"bn": "behind conv and behind other"},
    ),
    "norm-called-twice-in-a-row": Case(
        between(lambda n, x: n.bn(n.bn(n.conv(x)))), refused={"bn": "2 times"}
    ),
    "two-norms": Case(
        linked(
            lambda n, x: (lambda y: n.a(y) * n.b(y))(n.conv(x)),
            conv=nn.Conv2d(3, 4, 3),
            a=nn.BatchNorm2d(4),
            b=nn.BatchNorm2d(4),
        ),
        refused={"a": "conv also reaches b", "b": "conv also reaches a"},
    ),
    "pooled": Case(between(lambda n, x: n.bn(F.max_pool2d(n.conv(x), 2))), refused={"bn": "max_pool2d"}),
    "not-reached": Case(
        linked(lambda n, x: n.conv(x), conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4)),
        refused={"bn": "did not reach"},
    ),
    "forward-called-itself": Case(between(lambda n, x: n.bn.forward(n.conv(x))), refused={"bn": "not reach"}),
    "conv-called-past-hooks": Case(between(lambda n, x: n.bn(n.conv.forward(x))), refused={"bn": "conv"}),
    "only-in-training": Case(
        between(lambda n, x: n.bn(n.conv(x)) if n.training else n.conv(x)), refused={"bn": "did not reach"}
    ),
    "in-training-otherwise": Case(
        between(lambda n, x: n.bn(n.other(x)) if n.training else n.bn(n.conv(x))),
    ),
    "weight-read": Case(
        between(lambda n, x: n.bn(n.conv(x)) * n.conv.weight.abs().mean()),
        refused={"bn": "its weight is read by the model itself"},
    ),
    "statistics-read": Case(
        between(lambda n, x: n.bn(n.conv(x)) + n.bn.running_mean.sum()),
        refused={"bn": "running_mean is read"},
    ),
    "batch-statistics": Case(
        chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        refused={"1": "the batch's statistics"},
    ),
    "stays-in-training": Case(
        chain(nn.Conv2d(3, 4, 3), StaysInTraining(4)), refused={"1": "the batch's statistics"}
    ),
    "put-into-training": Case(
        between(lambda n, x: n.bn.train()(n.conv(x))), refused={"bn": "the batch's statistics"}
    ),
    "relu-in-the-norm": Case(chain(nn.Conv2d(3, 4, 3), Before(4)), refused={"1": "relu"}),
    "gamma-offset": Case(chain(nn.Conv2d(3, 4, 3), Offset(4)), refused={"1": "changed the outputs"}),
    "normalises-twice": Case(chain(nn.Conv2d(3, 4, 3), Twice(4)), refused={"1": "several times"}),
    "own-formula": Case(chain(nn.Conv2d(3, 4, 3), Formula(4)), refused={"1": "a way that is not known"}),
    "standardised-conv": Case(
        chain(Standardised(3, 4, 3), nn.BatchNorm2d(4)), refused={"1": "changed the outputs"}
    ),
    "doubling-conv": Case(chain(Doubling(3, 4, 3), nn.BatchNorm2d(4)), refused={"1": "changed the outputs"}),
    "control-flow-on-values": Case(
        between(lambda n, x: n.bn(n.conv(x)) if float(n.other(x).mean()) > -99 else n.other(x))
    ),
    "control-flow-on-what-is-folded": Case(
        between(lambda n, x: (lambda y: n.bn(y) if float(y.mean()) > -99 else y)(n.conv(x))),
        refused={"bn": "conv also reaches mean"},
    ),
    "input-written": Case(between(lambda n, x: n.bn(n.conv(x.mul_(2))))),
    "attribute-read": Case(
        between(lambda n, x: n.bn(n.conv(x)) * n.bn.num_features), refused={"bn": "changed the outputs"}
    ),
    "noise-in-evaluation": Case(
        between(lambda n, x: n.bn(n.conv(x)) + 0 * torch.randn(1, dtype=x.dtype)),
    ),
}


@pytest.mark.parametrize("case", BEHIND.values(), ids=BEHIND)
def test_behind(case: Case) -> None:
    run_case(case)


@pytest.mark.parametrize("case", FRONT.values(), ids=FRONT)
def test_in_front(case: Case) -> None:
    run_case(case)


@pytest.mark.parametrize("case", BETWEEN.values(), ids=BETWEEN)
def test_what_lies_between(case: Case) -> None:
    run_case(case)


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


def tied() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3))
    net[2].weight = net[0].weight
    return net


def tied_by_a_view() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3)).double()
    net[2].weight = nn.Parameter(net[0].weight.detach()[:2])
    return net


def tied_norms() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    net[3].weight = net[1].weight
    return net


def changed(change: Callable[[nn.Sequential], object]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        net = pair()
        change(net)
        return net

    return make


def set_forward(net: nn.Sequential) -> None:
    forward = net[0].forward
    net[0].forward = lambda x: forward(x) * 2


HINDERED: dict[str, Case] = {
    "tied": Case(tied, refused={"1": "its weight is also 2.weight"}),
    "tied-by-a-view": Case(tied_by_a_view),  # a copy ties them no more, as deepcopy has it
    "tied-norms": Case(
        tied_norms, refused={"1": "its weight is also 3.weight", "3": "its weight is also 1.weight"}
    ),
    "weight-norm-of-old": Case(changed(lambda n: weight_norm_of_old(n[0])), refused={"1": "0 has hooks"}),
    "spectral-norm-of-old": Case(changed(lambda n: spectral_norm(n[0])), refused={"1": "0 has hooks"}),
    "weight-norm": Case(
        changed(lambda n: parametrizations.weight_norm(n[0])), refused={"1": "0 has parametrizations"}
    ),
    "spectral-norm": Case(
        changed(lambda n: parametrizations.spectral_norm(n[0])), refused={"1": "0 has parametrizations"}
    ),
    "orthogonal-norm": Case(
        changed(lambda n: parametrizations.weight_norm(n[1])), refused={"1": "1 has parametrizations"}
    ),
    "pruned": Case(
        changed(lambda n: prune.random_unstructured(n[0], "weight", 0.3)), refused={"1": "0 has hooks"}
    ),
    "pruned-for-good": Case(
        changed(lambda n: prune.remove(prune.random_unstructured(n[0], "weight", 0.3), "weight"))
    ),
    "hook-of-conv": Case(
        changed(lambda n: n[0].register_forward_hook(lambda *_: None)), refused={"1": "0 has hooks"}
    ),
    "hook-of-conv-that-changes": Case(
        changed(lambda n: n[0].register_forward_hook(lambda m, i, o: o * 2)), refused={"1": "0 has hooks"}
    ),
    "hook-before-conv": Case(
        changed(lambda n: n[0].register_forward_pre_hook(lambda m, i: (i[0] * 2,))),
        refused={"1": "0 has hooks"},
    ),
    "hook-of-norm": Case(
        changed(lambda n: n[1].register_forward_hook(lambda *_: None)), refused={"1": "1 has hooks"}
    ),
    "hook-before-norm": Case(
        changed(lambda n: n[1].register_forward_pre_hook(lambda *_: None)), refused={"1": "1 has hooks"}
    ),
    "hook-of-backward": Case(
        changed(lambda n: n[0].register_full_backward_hook(lambda *_: None)), refused={"1": "0 has hooks"}
    ),
    "hook-behind": Case(changed(lambda n: n[2].register_forward_hook(lambda *_: None))),
    "hook-of-the-model": Case(changed(lambda n: n.register_forward_hook(lambda m, i, o: o + 1))),
    "hook-of-a-container-of-conv": Case(
        lambda: hooked(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4))),
        refused={"1": "hooks of others on 0 see what 0.0 computes"},
    ),
    "scripted-conv": Case(
        lambda: nn.Sequential(torch.jit.script(nn.Conv2d(3, 4, 3).double()), nn.BatchNorm2d(4)),
        refused={"1": "convolution"},
    ),
    "scripted-behind": Case(
        lambda: nn.Sequential(*pair()[:2], torch.jit.script(nn.Conv2d(4, 2, 1).double()))
    ),
    "traced-inside": Case(
        lambda: nn.Sequential(
            torch.jit.trace(pair().eval(), torch.randn(2, 3, 7, 7).double()),
            nn.Conv2d(4, 4, 3),
            nn.BatchNorm2d(4),
        )
    ),
    "forward-set-on-conv": Case(changed(set_forward), refused={"1": "0 has a forward method of its own"}),
    "gamma-infinite": Case(
        changed(lambda n: n[1].weight.data[0].fill_(torch.inf)), refused={"1": "not finite"}
    ),
    "variance-negative": Case(
        changed(lambda n: n[1].running_var.data[0].fill_(-1)), refused={"1": "negative"}
    ),
    "mean-nan": Case(
        changed(lambda n: n[1].running_mean.data[0].fill_(torch.nan)), refused={"1": "not finite"}
    ),
}


def weight_norm_of_old(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weight_norm(layer)


def hooked(net: nn.Sequential) -> nn.Sequential:
    net[0].register_forward_hook(lambda *_: None)
    return net


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", HINDERED)
def test_modules_that_others_look_into(name: str) -> None:
    case = HINDERED[name]
    torch.manual_seed(3)
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    model = case.make().double()
    finite = name not in ("gamma-infinite", "variance-negative", "mean-nan")
    if finite:
        check(model, (x,), case.refused)
    else:
        found = fold(model, x)
        assert [refusal.module for refusal in found.refusals] == ["1"]
        assert case.refused["1"] in found.refusals[0].reason
        assert torch.equal(found.model(x).isnan(), model.eval()(x).isnan())


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
