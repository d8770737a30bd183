"""Normalisation by the L1 or the L∞ norm in place of the standard deviation, after [S]."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xhat.errors import UsageError


def lp_normalise(
    x: Tensor, p: float, dims: Sequence[int], eps: float, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (γ (x − μ)/(s + ε) + β, μ, s), μ the mean over ``dims`` and s = (mean |x − μ|ᵖ)^(1/p).

    Shapes: the first like ``x``; μ and s with 1 in place of ``dims``; γ and β broadcast to them.
    """
    mean = _mean(x, dims)
    centred = x - mean
    scale = _mean(centred.abs(), dims) if p == 1 else _maximum(centred.abs(), dims)
    return scaled(centred, scale + eps, weight, bias), mean, scale


def scaled(centred: Tensor, scale: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return γ ``centred`` / ``scale`` + β."""
    # On images torch's addcmul with factors a channel takes twice the time of these two.
    out = centred * (1 / scale if weight is None else weight / scale)
    return out if bias is None else out.add_(bias)


def _mean(x: Tensor, dims: Sequence[int]) -> Tensor:
    # One axis after the other, samples first: over both at once torch's kernels are slower by far where
    # maps are small.
    count = math.prod(x.shape[dim] for dim in dims)
    for dim in dims:
        x = x.sum(dim, keepdim=True)
    return x / count


def _maximum(x: Tensor, dims: Sequence[int]) -> Tensor:
    # Not amax, whose gradient takes several passes to share it among equal values.
    for dim in dims:
        x = x.max(dim, keepdim=True).values
    return x


class LpNorm(nn.Module):
    """y = γ (x − μ)/(s + ε) + β with s the mean of |x − μ| for p = 1, its maximum for p = ∞.

    In training μ and s are the batch's, per channel over samples and positions. In evaluation they are
    running averages, running ← (1 − momentum)·running + momentum·batch.

    Shapes: (N, C) or (N, C, ``*``) both ways; γ, β and the running averages (C,).

    Args:
        channels: C.
        p: 1 or ``math.inf``.
        eps: ε, added to s.
        momentum: Weight of the new batch in the running averages.
        affine: Whether there are γ and β.

    Raises:
        UsageError: another ``p``; in training a single value per channel.

    Source: after [S] Santurkar et al. 2018, arXiv 1805.11604, sec. 3.3 and appendix. Not its
    scheme to the letter: [S] divides "by the average of their ℓp-norm (before shifting the mean)"; here s is
    of the centred values, as in BN. μ and s are both differentiated.
    """

    running_mean: Tensor
    running_scale: Tensor

    def __init__(
        self, channels: int, p: float, *, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        super().__init__()
        if p not in (1, math.inf):
            raise UsageError(
                f"LpNorm got p={p}; it knows p=1 and p=math.inf. Another p would be computed as one of them: "
                "for p=2 take batch norm"
            )
        self.channels, self.p, self.eps, self.momentum = channels, p, eps, momentum
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_scale", torch.ones(channels))

    def extra_repr(self) -> str:
        """Return what tells two such layers apart."""
        affine = self.weight is not None
        return f"{self.channels}, p={self.p}, eps={self.eps}, momentum={self.momentum}, affine={affine}"

    def forward(self, x: Tensor) -> Tensor:
        flat = x if x.dim() == 2 else x.flatten(2)
        shape = (-1, *[1] * (flat.dim() - 2))
        weight, bias = (None if w is None else w.view(shape) for w in (self.weight, self.bias))
        if self.training:
            check_count(x.numel() // self.channels, x)
            out, mean, scale = lp_normalise(flat, self.p, (0, 2)[: flat.dim() - 1], self.eps, weight, bias)
            self.running_mean.lerp_(mean.detach().flatten(), self.momentum)
            self.running_scale.lerp_(scale.detach().flatten(), self.momentum)
        else:
            scale = self.running_scale.view(shape) + self.eps
            out = scaled(flat - self.running_mean.view(shape), scale, weight, bias)
        return out.view(x.shape)


def check_count(values: int, x: Tensor) -> None:
    """Raise if a channel has one value: it is its own mean, and the output would be β whatever the input."""
    if values == 1:
        raise UsageError(
            f"Expected more than 1 value per channel when training, got input of shape {tuple(x.shape)}. A "
            "single value is its own mean, so the output would not depend on the input. Use a larger batch "
            "or evaluation mode"
        )
