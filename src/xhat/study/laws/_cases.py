"""Random cases in float64 that the laws are held against, and the error they are held to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

NOTES_EPS = 1e-8  # the lecture notes
TORCH_EPS = 1e-5  # torch.nn.BatchNorm1d's default
# torch refuses ε = 0 in train mode. σ² + 1e-300 rounds to σ² for every σ² here, so this is ε = 0 bit for bit.
ZERO_EPS = 1e-300

# float64 rounds at 1.1e-16. Means of up to 10σ cost a factor 10, sums over a batch and a short chain of
# operations another 100 at most: 1e-13. One digit of slack, and still far below an ε of 1e-8.
TOLERANCE = 1e-12

SIZES = (2, 3, 8, 64, 257)  # batch sizes m


@dataclass(frozen=True)
class Case:
    """A random batch of m samples and C features on its way through BN."""

    y: Tensor  # (m, C), the input of BN
    gamma: Tensor  # (C,), of either sign
    beta: Tensor  # (C,)


@dataclass(frozen=True)
class Loss:
    """A smooth loss that is not quadratic and couples the samples: Σ softplus(Az) + Σ c·tanh(z)."""

    A: Tensor  # (m, m)
    c: Tensor  # (m, C)

    def __call__(self, z: Tensor) -> Tensor:
        """Return the loss of z, shape (m, C)."""
        return F.softplus(self.A @ z).sum() + (self.c * torch.tanh(z)).sum()


def generator(seed: int) -> torch.Generator:
    """Return a generator of its own, so that a check leaves the global one alone."""
    return torch.Generator().manual_seed(seed)


def normal(rng: torch.Generator, *shape: int) -> Tensor:
    """Draw from N(0, 1)."""
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def uniform(rng: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Draw from U(low, high)."""
    return low + (high - low) * torch.rand(*shape, generator=rng, dtype=torch.float64)


def moments(y: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance over the batch, each of shape (C,)."""
    mean = y.mean(0)
    return mean, (y - mean).square().mean(0)


def standardized(y: Tensor, eps: float) -> Tensor:
    """Return (y − μ)/√(σ² + ε), straight from the formula."""
    mean, variance = moments(y)
    return (y - mean) / (variance + eps).sqrt()


def case(rng: torch.Generator, m: int, features: int = 8, decades: float = 3.0) -> Case:
    """Draw a batch with σ in 10^±decades and |μ| ≤ 10σ, which bounds what rounding can do to y − μ."""
    noise = standardized(normal(rng, m, features), 0.0)
    std = 10 ** uniform(rng, -decades, decades, features)
    y = std * (noise + uniform(rng, -10, 10, features))
    gamma = 10 ** uniform(rng, -0.5, 0.5, features) * normal(rng, features).sign()
    return Case(y, gamma, normal(rng, features))


def loss(rng: torch.Generator, like: Tensor) -> Loss:
    """Draw a loss for batches of the shape of ``like``."""
    m, features = like.shape
    return Loss(normal(rng, m, m) / m**0.5, normal(rng, m, features))


def batch_norm(y: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, *, eps: float) -> Tensor:
    """Run torch's batch norm in train mode: the subject of the laws."""
    return F.batch_norm(y, None, None, gamma, beta, training=True, eps=eps)


def worst(actual: Tensor, expected: Tensor, scale: Tensor | float = 1.0) -> float:
    """Return the largest |actual − expected| / scale."""
    return float(((actual - expected).abs() / scale).max())


def largest(errors: Sequence[float]) -> float:
    """Return the largest error, NaN if one is NaN (the built-in ``max`` would lose it)."""
    return float(np.max(errors))


def points(values: Tensor) -> tuple[float, ...]:
    """Return a tensor's values as a figure stores them."""
    return tuple(float(value) for value in values.detach().flatten())
