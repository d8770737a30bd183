"""How large a network's hidden weights and its γ are."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from xhat.study.scene import Scene, floats, normalising, weighted
from xhat.study.store import Arrays


@dataclass(frozen=True)
class WeightNorms:
    """The size of every hidden layer's weights and γ, layers in order from the input.

    Arrays for M members, each (M, L): norm, ‖w‖₂; gamma, the mean of |γ| over units; moved, the root mean
    square of γ − 1, 1 being where γ starts. The last two are NaN where there is no γ.
    """

    at: tuple[int, ...]
    kind: str = field(default="weight_norms", init=False)

    @torch.no_grad()
    def take(self, scene: Scene) -> Arrays:
        """Measure the parameters as they stand."""
        weights = [
            scene.by_member(weighted(block).get_parameter("weight")).double() for block in scene.blocks
        ]
        gammas = [self._gamma(scene, block) for block in scene.blocks]
        return {
            "norm": floats(torch.stack([weight.norm(dim=1) for weight in weights], dim=1)),
            "gamma": np.stack([floats(gamma.abs().mean(1)) for gamma in gammas], axis=1),
            "moved": np.stack([floats((gamma - 1).square().mean(1).sqrt()) for gamma in gammas], axis=1),
        }

    def _gamma(self, scene: Scene, block: torch.nn.Sequential) -> Tensor:
        gamma = getattr(normalising(block), "weight", None)
        missing = torch.full((scene.members, 1), torch.nan)
        return scene.by_member(gamma).double() if isinstance(gamma, Tensor) else missing
