"""Layers whose bias can be left out without changing what else is drawn."""

from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def keep_bias(layer: Layer, keep: bool) -> Layer:
    """Return ``layer``, without its bias unless ``keep``.

    The bias is drawn in any case: if it were not, all later layers would draw other numbers, and the arms
    of a comparison would not share their initial weights.
    """
    if not keep:
        layer.register_parameter("bias", None)
    return layer
