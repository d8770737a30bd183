"""What lies between a layer and a batch norm, or in its class, forbids folding where it must."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.surgery.folding import Case, chain, linked, run_case

pytestmark = pytest.mark.usefixtures("quick")


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


class Standardised(nn.Conv2d):
    """Weights of mean 0 and variance 1, whatever they are scaled by."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return self._conv_forward(x, weight, self.bias)


class Doubling(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class StaysInTraining(nn.BatchNorm2d):
    stays = True

    def train(self, mode: bool = True) -> "StaysInTraining":
        super().train(True)
        return self


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
        refused={"bn": ".weight is read by the model itself too"},
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
        between(lambda n, x: n.bn(n.conv(x)) * n.bn.num_features),
        refused={
            "bn": "raised AttributeError: 'Identity' object has no attribute 'num_features' when it was folded"
        },
    ),
    "noise-in-evaluation": Case(
        between(lambda n, x: n.bn(n.conv(x)) + 0 * torch.randn(1, dtype=x.dtype)),
    ),
}


@pytest.mark.parametrize("case", BETWEEN.values(), ids=BETWEEN)
def test_what_lies_between(case: Case) -> None:
    run_case(case)
