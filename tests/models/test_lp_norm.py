"""L1 and L∞ normalisation: the formula, its gradient, the running averages."""

import math

import pytest
import torch
from torch import Tensor

from xhat.errors import UsageError
from xhat.models import LpNorm

PS = pytest.mark.parametrize("p", [1, math.inf])
SHAPES = pytest.mark.parametrize("shape", [(7, 3), (4, 3, 5), (4, 3, 5, 2)], ids=["1d", "sequence", "image"])


def rows(x: Tensor) -> Tensor:
    """One row of values a channel."""
    return x.transpose(0, 1).flatten(1)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 1


@pytest.mark.parametrize(("p", "scale"), [(1, 2.0), (math.inf, 4.0)])
def test_by_hand(p: float, scale: float) -> None:
    # x = (0, 1, 2, 1, 6): μ = 2, |x − μ| = (2, 1, 0, 1, 4), mean 8/5, max 4
    layer = LpNorm(1, p, eps=0.4 if p == 1 else 0.0)
    with torch.no_grad():
        layer.weight.fill_(3.0)
        layer.bias.fill_(1.0)
    y = layer(torch.tensor([[0.0], [1], [2], [1], [6]])).flatten()
    torch.testing.assert_close(y, 3 * torch.tensor([-2.0, -1, 0, -1, 4]) / scale + 1)


@PS
@SHAPES
def test_the_output_has_mean_0_and_norm_1(p: float, shape: tuple[int, ...]) -> None:
    out = rows(LpNorm(3, p, eps=0, affine=False).double()(draw(*shape)))
    torch.testing.assert_close(out.mean(1), torch.zeros(3).double())
    size = out.abs().mean(1) if p == 1 else out.abs().amax(1)
    torch.testing.assert_close(size, torch.ones(3).double())


@PS
@SHAPES
def test_gradients(p: float, shape: tuple[int, ...]) -> None:
    layer = LpNorm(3, p).double()
    assert torch.autograd.gradcheck(layer, draw(*shape).requires_grad_())
    out = layer(draw(*shape))
    weight, bias = torch.autograd.grad(out.square().sum(), (layer.weight, layer.bias))
    torch.testing.assert_close(weight, 2 * rows(out).square().sum(1))  # γ = 1, β = 0
    torch.testing.assert_close(bias, 2 * rows(out).sum(1))


@PS
@SHAPES
def test_evaluation_takes_the_running_averages(p: float, shape: tuple[int, ...]) -> None:
    layer, mean, scale = LpNorm(3, p).double(), torch.zeros(3).double(), torch.ones(3).double()
    for step in range(3):
        x = draw(*shape) * (step + 1)
        layer(x)
        centred = rows(x) - rows(x).mean(1, keepdim=True)
        size = centred.abs().mean(1) if p == 1 else centred.abs().amax(1)
        mean, scale = 0.9 * mean + 0.1 * rows(x).mean(1), 0.9 * scale + 0.1 * size
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_scale, scale)
    layer.eval()
    expected = (rows(draw(*shape)) - mean[:, None]) / (scale[:, None] + layer.eps)
    torch.testing.assert_close(rows(layer(draw(*shape))), expected)
    torch.testing.assert_close(layer.running_mean, mean)


@PS
def test_a_constant_channel_gives_beta_and_a_finite_gradient(p: float) -> None:
    x = torch.full((5, 2), 3.0, requires_grad=True)
    out = LpNorm(2, p)(x)
    assert out.eq(0).all()
    (slope,) = torch.autograd.grad(out.square().sum(), x)
    assert slope.isfinite().all()


def test_errors() -> None:
    with pytest.raises(UsageError, match="got p=2; it knows p=1"):
        LpNorm(3, 2)
    with pytest.raises(UsageError, match=r"more than 1 value per channel .* shape \(1, 3\)"):
        LpNorm(3, 1)(torch.ones(1, 3))
    assert LpNorm(3, 1).eval()(torch.ones(1, 3)).shape == (1, 3)
