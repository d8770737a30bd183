"""How much of what enters the activations lies where the activation is all but linear."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from xhat.errors import ModelError
from xhat.study.scene import Scene, floats
from xhat.study.store import Arrays

LEVELS = (0.01, *(round(0.025 * nth, 3) for nth in range(1, 40)), 0.99)  # of the quantiles


@dataclass(frozen=True)
class LinearPart:
    """The share of the values z before a sigmoid or tanh f that lie in its linear part.

    That is where f differs from its tangent at 0 by at most ``tolerance`` of the tangent's own change:
    |f(z) − f(0) − f'(0)z| ≤ tolerance·|f'(0)z|. At 0.05: |z| < 0.40 for tanh, 0.80 for sigmoid.
    In training mode, on the first ``samples`` training samples, over all units.

    Arrays for M members and L hidden layers: share (M, L); quantile (M, L, Q), of z at ``LEVELS``.
    """

    at: tuple[int, ...]
    samples: int = 256
    tolerance: float = 0.05
    kind: str = field(default="linear_part", init=False)

    @torch.no_grad()
    def take(self, scene: Scene) -> Arrays:
        """Send the fixed samples through the network and look in front of every activation.

        Raises:
            ModelError: a block has neither sigmoid nor tanh.
        """
        seen: list[tuple[nn.Module, Tensor]] = []

        def look(layer: nn.Module, values: tuple[Tensor, ...]) -> None:
            seen.append((layer, scene.by_unit(values[0]).flatten(1).double()))

        hooks = [_activation(block).register_forward_pre_hook(look) for block in scene.blocks]
        try:
            scene.model(scene.task.fixed(self.samples))
        finally:
            for hook in hooks:
                hook.remove()
        levels = torch.tensor(LEVELS, dtype=torch.float64)
        return {
            "share": floats(torch.stack([self._share(layer, z) for layer, z in seen], dim=1)),
            "quantile": floats(torch.stack([z.quantile(levels, dim=1).T for _, z in seen], dim=1)),
        }

    def _share(self, layer: nn.Module, z: Tensor) -> Tensor:
        zero = torch.zeros((), dtype=torch.float64)
        slope = 0.25 if isinstance(layer, nn.Sigmoid) else 1.0
        tangent = slope * z
        linear = (layer(z) - layer(zero) - tangent).abs() <= self.tolerance * tangent.abs()
        share: Tensor = linear.double().mean(1).where(z.isfinite().all(1), torch.nan)
        return share


def _activation(block: nn.Sequential) -> nn.Module:
    for layer in block:
        if isinstance(layer, nn.Sigmoid | nn.Tanh):
            return layer
    raise ModelError(
        f"the block {block} has neither sigmoid nor tanh, and other activations have no linear part around 0"
    )
