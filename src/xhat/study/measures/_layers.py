"""Blocks of a network walked one by one on a fixed batch, and the moments of a layer's units."""

from collections.abc import Sequence

from torch import Tensor, nn

from xhat.study.scene import Scene, weighted

ALIVE = 0.01  # of the layer's root mean square standard deviation: a unit below it hardly varies at all
TINY = 1e-15  # in place of a standard deviation of 0, whose logarithm and slope are infinite


def entering(scene: Scene, x: Tensor) -> Tensor:
    """Return the network's input as the first block takes it."""
    return x.flatten(1) if isinstance(weighted(scene.blocks[0]), nn.Linear) else x


def through(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Return what comes out of the last of ``blocks``."""
    for block in blocks:
        x = block(x)
    return x


def moments(scene: Scene, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (biased) of every unit of a layer's values, each (M, units)."""
    by_unit = scene.by_unit(x)
    return by_unit.mean(-1), by_unit.var(-1, correction=0).clamp_min(TINY**2).sqrt()


def alive(std: Tensor) -> Tensor:
    """Return which units vary, of standard deviations (M, units)."""
    return std > (ALIVE * std.square().mean(-1, keepdim=True).sqrt()).clamp_min(2 * TINY)
