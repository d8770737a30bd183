"""The distributional noise with which [S] broke the stability of layer inputs (arXiv 1805.11604, Alg. 1)."""

import torch
from torch import Tensor, nn


class DistributionNoise(nn.Module):
    """In training, a ← s·a + m with a distribution that changes at every step.

    Per step and unit μ ~ U(-0.5, 0.5) and σ ~ U(1, 1.25); per sample m ~ U(μ-0.1, μ+0.1) and
    s ~ N(σ, 0.1). Draws come from torch's global generator. In evaluation the identity.

    Shapes: (N, C) or (N, C, ``*``); for an ensemble of ``members`` nets (members, C, N).
    """

    def __init__(self, channels: int, *, members: int | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.members = members

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        unit: tuple[int, ...]
        sample: tuple[int, ...]
        if self.members is not None:
            unit, sample = (self.members, self.channels, 1), (self.members, self.channels, x.shape[-1])
        else:
            tail = (1,) * (x.dim() - 2)
            unit, sample = (1, self.channels, *tail), (x.shape[0], self.channels, *tail)
        mean = torch.rand(unit) - 0.5
        spread = 1 + 0.25 * torch.rand(unit)
        shift = mean + 0.2 * torch.rand(sample) - 0.1
        scale = spread + 0.1 * torch.randn(sample)
        return scale.to(x) * x + shift.to(x)
