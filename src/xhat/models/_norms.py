"""The normalisation that a network's factory puts where batch normalization may stand."""

from torch import nn

from xhat.errors import unknown
from xhat.models.noise import DistributionNoise

NORMS = ("batch", "none", "layer", "group", "none+noise", "batch+noise")


def make_norm(norm: str, channels: int, *, images: bool) -> nn.Module:
    """Return the normalisation layer ``norm`` for ``channels`` channels.

    "layer" on images is GroupNorm with one group (Wu and He 2018, sec. 3), "group" has groups of at most
    8 channels. "+noise" appends the noise of [S], Alg. 1.

    Raises:
        UsageError: ``norm`` is none of ``NORMS``.
    """
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    kind, _, noise = norm.partition("+")
    layer: nn.Module
    if kind == "batch":
        layer = nn.BatchNorm2d(channels) if images else nn.BatchNorm1d(channels)
    elif kind == "layer":
        layer = nn.GroupNorm(1, channels) if images else nn.LayerNorm(channels)
    elif kind == "group":
        groups = next(groups for groups in range(-(-channels // 8), channels + 1) if channels % groups == 0)
        layer = nn.GroupNorm(groups, channels)
    else:
        layer = nn.Identity()
    return nn.Sequential(layer, DistributionNoise(channels)) if noise else layer
