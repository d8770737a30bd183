"""Channels: which axis holds them, and which of the source's each one is after data was moved."""

from torch import Tensor

from xhat.dataflow import Access
from xhat.surgery._arithmetic import Layer, spatial_dims


def constant_by_channel(labels: Tensor, axis: int) -> Tensor | None:
    """Return the one label of each channel, or None where a channel has several or an unknown one."""
    if not labels.numel() or labels.dim() <= axis:
        return None
    by_channel = labels.movedim(axis, 0).flatten(1)
    first = by_channel[:, 0]
    if bool((by_channel != first[:, None]).any()) or bool((first < 0).any()):
        return None
    return first


def output_axis(layer: Layer, output: Access) -> int:
    """Return the axis of the channels in what a layer computes."""
    return len(output.size) - 1 - spatial_dims(layer)
