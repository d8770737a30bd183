"""How far the distribution of a layer's input moves when the weights before it are perturbed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from xhat.study.measures._layers import alive, entering, moments
from xhat.study.scene import Scene, floats, normalising, weighted
from xhat.study.store import Arrays

# Statistics of the perturbed batch; those of the unperturbed network, as evaluation mode keeps them; the
# batch's again with γ and β perturbed too.
CASES = ("batch", "running", "affine")


@dataclass(frozen=True)
class Perturb:
    """Moment shift of the outputs of blocks under Gaussian noise on all weights and biases up to them.

    The noise δ of every weight matrix W and every bias is so scaled that ‖δ‖ = r‖W‖; the same draws at
    every r, and in every arm whose weights have the same shapes. With means μ, μ' and biased standard
    deviations σ, σ' of a unit's values on the first ``samples`` training samples, before and after:

        shift = √ mean over units of ((μ'−μ)²/σ̄² + (ln σ'/σ)²),   σ̄² = (σ²+σ'²)/2

    over the units that vary both times (``alive``). In training mode batch norm's moments before the
    activation are β and γ², but for ε, whatever the weights: in the case "batch" only the shape of the
    distribution moves what comes behind it. Evaluation mode starts from running statistics that
    are those of the unperturbed network on the same samples.

    Arrays for M members, C = 3 ``CASES``, L layers and R sizes, each (M, C, L, R) and a mean over draws:
    shift; alive: the share of units that entered.
    """

    at: tuple[int, ...]
    layers: tuple[int, ...]  # blocks, counted from 0
    sizes: tuple[float, ...]
    draws: int = 4
    samples: int = 256
    kind: str = field(default="perturb", init=False)

    @torch.no_grad()
    def take(self, scene: Scene) -> Arrays:
        """Perturb the weights, look at the layers, and put the weights back."""
        x = entering(scene, scene.task.fixed(self.samples))
        _settle(scene, x)
        shape = (scene.members, len(CASES), len(self.layers), len(self.sizes))
        shift, share = np.zeros(shape), np.zeros(shape)
        # In training mode a forward pass moves the running statistics: evaluation mode comes first.
        for case in ("running", "batch", "affine"):
            scene.model.train(case != "running")
            before = self._look(scene, x)
            place = CASES.index(case)
            for draw in range(self.draws):
                for column, size in enumerate(self.sizes):
                    with _perturbed(scene, self._blocks(scene), size, draw, affine=case == "affine"):
                        after = self._look(scene, x)
                    for row, (old, new) in enumerate(zip(before, after, strict=True)):
                        moved, both = _shift(old, new)
                        shift[:, place, row, column] += floats(moved) / self.draws
                        share[:, place, row, column] += floats(both) / self.draws
        return {"shift": shift, "alive": share}

    def _blocks(self, scene: Scene) -> list[nn.Sequential]:
        return scene.blocks[: max(self.layers) + 1]

    def _look(self, scene: Scene, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        found = {}
        for index, block in enumerate(self._blocks(scene)):
            x = block(x)
            if index in self.layers:
                found[index] = moments(scene, x)
        return [found[index] for index in self.layers]


def _settle(scene: Scene, x: Tensor) -> None:
    """Make the running statistics those of the network as it stands on ``x``."""
    for block in scene.blocks:
        norm = normalising(block)
        if norm is not None and hasattr(norm, "running_mean"):
            norm.momentum = 1.0  # type: ignore[assignment]
    scene.model.train()
    for block in scene.blocks:
        x = block(x)


@contextmanager
def _perturbed(
    scene: Scene, blocks: list[nn.Sequential], size: float, draw: int, *, affine: bool
) -> Iterator[None]:
    wanted = [p for block in blocks for p in weighted(block).parameters()]
    if affine:  # last, so that the weights' draws stay the same
        wanted += [p for block in blocks if (norm := normalising(block)) for p in norm.parameters()]
    kept = [parameter.clone() for parameter in wanted]
    generator = torch.Generator().manual_seed(3_000_003 + draw)
    for parameter in wanted:
        noise = torch.randn(parameter.shape, generator=generator)
        length = scene.by_member(parameter).norm(dim=1) / scene.by_member(noise).norm(dim=1)
        parameter.add_(noise * scene.per_member(size * length, parameter))
    try:
        yield
    finally:
        for parameter, values in zip(wanted, kept, strict=True):
            parameter.copy_(values)


def _shift(old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return a layer's moment shift (M,), NaN where no unit varies, and the share of units that do."""
    (mean, std), (mean_, std_) = old, new
    both = alive(std) & alive(std_)
    square = (mean_ - mean) ** 2 / ((std**2 + std_**2) / 2) + (std_.log() - std.log()) ** 2
    total = torch.where(both, square, 0.0).sum(-1)
    return (total / both.sum(-1)).sqrt(), both.float().mean(-1)
