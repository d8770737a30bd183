"""The normalisation layers of an ensemble: each member's units are rows of one tensor (members, C, N)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from xhat.models.ghost import GhostBatchNorm, ghost_batch_norm
from xhat.models.lp_norm import LpNorm, check_count, lp_normalise, scaled


def stack(tensors: Sequence[Tensor | None]) -> nn.Parameter | None:
    """Return copies of the members' parameters as one, or None if the first member has none."""
    present = [tensor.detach() for tensor in tensors if tensor is not None]
    return nn.Parameter(torch.stack(present)) if present else None


class _EnsembleNorm(nn.Module):
    """γ and β of every member, if there are any."""

    def __init__(self, layers: Sequence[_BatchNorm | nn.LayerNorm | LpNorm]) -> None:
        super().__init__()
        self.eps = layers[0].eps
        self.weight = stack([layer.weight for layer in layers])
        self.bias = stack([layer.bias for layer in layers])

    def _keep(self, name: str, layers: Sequence[nn.Module]) -> None:
        self.register_buffer(name, torch.stack([layer.get_buffer(name) for layer in layers]))

    def _affine(self, x: Tensor) -> Tensor:
        if self.weight is None or self.bias is None:
            return x
        return torch.addcmul(self.bias[..., None], x, self.weight[..., None])


class EnsembleBatchNorm(_EnsembleNorm):
    """One batch normalization of every member, by torch's own kernel. Shapes: (members, C, N) both ways."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, layers: Sequence[_BatchNorm]) -> None:
        super().__init__(layers)
        # An MLP's BN always tracks its statistics, with a fixed momentum.
        assert layers[0].momentum is not None
        self.momentum = layers[0].momentum
        self._keep("running_mean", layers)
        self._keep("running_var", layers)

    def _flat(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        weight, bias = (None if w is None else w.view(-1) for w in (self.weight, self.bias))
        return self.running_mean.view(-1), self.running_var.view(-1), weight, bias

    def forward(self, x: Tensor) -> Tensor:
        out = F.batch_norm(
            x.reshape(1, -1, x.shape[-1]),
            *self._flat(),
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
        )
        return out.view(x.shape)


class EnsembleGhostBatchNorm(EnsembleBatchNorm):
    """One ghost batch normalization of every member. Shapes: (members, C, N) both ways."""

    def __init__(self, layers: Sequence[GhostBatchNorm]) -> None:
        super().__init__(layers)
        self.samples = layers[0].samples

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        out = ghost_batch_norm(
            x.reshape(-1, x.shape[-1], 1),
            *self._flat(),
            samples=self.samples,
            momentum=self.momentum,
            eps=self.eps,
        )
        return out.view(x.shape)


class EnsembleLpNorm(_EnsembleNorm):
    """One L1 or L∞ normalisation of every member. Shapes: (members, C, N) both ways."""

    running_mean: Tensor
    running_scale: Tensor

    def __init__(self, layers: Sequence[LpNorm]) -> None:
        super().__init__(layers)
        self.p, self.momentum = layers[0].p, layers[0].momentum
        self._keep("running_mean", layers)
        self._keep("running_scale", layers)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (None if w is None else w[..., None] for w in (self.weight, self.bias))
        if not self.training:
            centred = x - self.running_mean[..., None]
            return scaled(centred, self.running_scale[..., None] + self.eps, weight, bias)
        check_count(x.shape[-1], x)
        out, mean, scale = lp_normalise(x, self.p, (-1,), self.eps, weight, bias)
        self.running_mean.lerp_(mean.detach().squeeze(-1), self.momentum)
        self.running_scale.lerp_(scale.detach().squeeze(-1), self.momentum)
        return out


class EnsembleLayerNorm(_EnsembleNorm):
    """One layer normalization of every member. Shapes: (members, C, N) both ways."""

    def forward(self, x: Tensor) -> Tensor:
        # Turned so that units come last: torch's kernel on a copy beats sums over a strided axis.
        return self._affine(F.layer_norm(x.transpose(1, 2), x.shape[1:2], eps=self.eps).transpose(1, 2))
