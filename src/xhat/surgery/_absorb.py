"""Layers take over the map of a batch norm that they are linked to."""

import torch
from torch import nn

from xhat.surgery._arithmetic import (
    absorb_behind_,
    absorb_in_front_,
    channels_out,
    is_layer,
    scale_and_shift,
)
from xhat.surgery._links import Link


def absorb_(model: nn.Module, link: Link) -> None:
    """Let a link's layers take over its norm's map; the norm itself stays where it is."""
    scale, shift = scale_and_shift(model.get_submodule(link.norm))
    for name, given in zip(link.layers, link.channels, strict=True):
        layer, channels = model.get_submodule(name), given.to(scale.device)
        assert is_layer(layer)
        if link.side == "in front":
            absorb_in_front_(layer, scale[channels], shift[channels])
            continue
        by_output = torch.ones(channels_out(layer), dtype=torch.float64, device=scale.device)
        added = torch.zeros_like(by_output)  # outputs that the norm does not see keep 1 and 0
        by_output[channels], added[channels] = scale, shift
        absorb_behind_(layer, by_output, added)
