"""Normalisation by the L1 or the L∞ norm in place of the standard deviation, as [S] compare them with BN."""

import math

import torch
from torch import Tensor, nn

from xhat.errors import UsageError


def lp_normalise(x: Tensor, p: float, dims: list[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return ((x − μ)/(s + ε), μ, s), μ the mean over ``dims`` and s = (mean |x − μ|ᵖ)^(1/p).

    Shapes: the first like ``x``; μ and s with 1 in place of ``dims``.
    """
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    size = centred.abs()
    scale = size.mean(dims, keepdim=True) if p == 1 else size.amax(dims, keepdim=True)
    return centred / (scale + eps), mean, scale


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

    Source: [S] Santurkar et al. 2018, arXiv 1805.11604, sec. 3.3 and appendix; μ and s are both
    differentiated.
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
        shape = (-1, *[1] * (x.dim() - 2))
        if self.training:
            check_count(x.numel() // self.channels, x)
            out, mean, scale = lp_normalise(x, self.p, [0, *range(2, x.dim())], self.eps)
            self.running_mean.lerp_(mean.detach().flatten(), self.momentum)
            self.running_scale.lerp_(scale.detach().flatten(), self.momentum)
        else:
            out = (x - self.running_mean.view(shape)) / (self.running_scale.view(shape) + self.eps)
        if self.weight is not None and self.bias is not None:
            out = torch.addcmul(self.bias.view(shape), out, self.weight.view(shape))
        return out


def check_count(values: int, x: Tensor) -> None:
    """Raise if a channel has one value: it is its own mean, and the output would be β whatever the input."""
    if values == 1:
        raise UsageError(
            f"Expected more than 1 value per channel when training, got input of shape {tuple(x.shape)}. A "
            "single value is its own mean, so the output would not depend on the input. Use a larger batch "
            "or evaluation mode"
        )
