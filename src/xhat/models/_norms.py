"""The normalisation that a network's factory puts where batch normalization may stand."""

import math
import re

from torch import nn

from xhat.errors import unknown
from xhat.models.ghost import GhostBatchNorm
from xhat.models.lp_norm import LpNorm
from xhat.models.noise import DistributionNoise

# The names; of ghost batch norm those of usual sizes, and any other size is spelled like them.
NORMS = (
    "batch",
    "none",
    "layer",
    "group",
    "l1",
    "linf",
    "ghost8",
    "ghost16",
    "ghost32",
    "ghost64",
    "none+noise",
    "batch+noise",
)
_GHOST = re.compile(r"ghost([1-9][0-9]*)")


def check_norm(norm: str) -> None:
    """Raise unless ``norm`` is one of ``NORMS``, or "ghostN" with any number N of samples a chunk.

    Raises:
        UsageError: there is no such normalisation.
    """
    if norm not in NORMS and not _GHOST.fullmatch(norm):
        raise unknown("norm", norm, NORMS)


def make_norm(norm: str, channels: int, *, images: bool, affine: bool = True) -> nn.Module:
    """Return the normalisation layer ``norm`` for ``channels`` channels.

    "layer" on images is GroupNorm with one group (Wu and He 2018, sec. 3), "group" has groups of at most
    8 channels. "l1" and "linf" are ``LpNorm``, "ghostN" is ``GhostBatchNorm`` with chunks of N samples.
    "+noise" appends the noise of [S], Alg. 1.

    Args:
        norm: One of ``NORMS``, or "ghostN" with any N ≥ 2.
        channels: Channels or features.
        images: Whether inputs are (N, C, H, W) rather than (N, C).
        affine: Whether there are γ and β.

    Raises:
        UsageError: there is no such normalisation, or a ghost's chunk has a single sample.
    """
    check_norm(norm)
    kind, _, noise = norm.partition("+")
    layer: nn.Module
    if kind == "batch":
        layer = (nn.BatchNorm2d if images else nn.BatchNorm1d)(channels, affine=affine)
    elif kind == "layer" and images:
        layer = nn.GroupNorm(1, channels, affine=affine)
    elif kind == "layer":
        layer = nn.LayerNorm(channels, elementwise_affine=affine)
    elif kind == "group":
        groups = next(groups for groups in range(-(-channels // 8), channels + 1) if channels % groups == 0)
        layer = nn.GroupNorm(groups, channels, affine=affine)
    elif kind in ("l1", "linf"):
        layer = LpNorm(channels, 1 if kind == "l1" else math.inf, affine=affine)
    elif ghost := _GHOST.fullmatch(kind):
        layer = GhostBatchNorm(channels, int(ghost[1]), affine=affine)
    else:
        layer = nn.Identity()
    return nn.Sequential(layer, DistributionNoise(channels)) if noise else layer
