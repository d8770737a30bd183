"""What is left of batch norm without its normalisation: γ and β."""

import torch
from torch import Tensor, nn


class ChannelAffine(nn.Module):
    """y = γ·x + β per channel, both learned.

    Args:
        num_features: C, of inputs (N, C, …).
        device: Of the parameters.
        dtype: Of the parameters.
    """

    weight: nn.Parameter  # (C,), γ
    bias: nn.Parameter  # (C,), β

    def __init__(
        self, num_features: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.weight = nn.Parameter(torch.ones(num_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(num_features, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.dim() - 2))
        return torch.addcmul(self.bias.view(shape), x, self.weight.view(shape))

    def extra_repr(self) -> str:
        """Return what repr shows in brackets."""
        return str(self.num_features)
