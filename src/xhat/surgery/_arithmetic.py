"""Batch norm's map in evaluation mode, and how a convolution or linear layer takes it over, in float64."""

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

Layer = _ConvNd | nn.Linear


def is_layer(module: nn.Module) -> TypeGuard[Layer]:
    """Whether a module is a convolution, a transposed one or a linear layer of torch's, or derives from one."""
    return isinstance(module, _ConvNd | nn.Linear) and not nn.parameter.is_lazy(module.weight)


def spatial_dims(layer: Layer) -> int:
    """Return how many axes stand behind the channels' one; 0 for linear layers."""
    return len(layer.kernel_size) if isinstance(layer, _ConvNd) else 0


def channels_out(layer: Layer) -> int:
    """Return the number of output channels or features."""
    return layer.out_channels if isinstance(layer, _ConvNd) else layer.out_features


def takes_shift(layer: Layer) -> bool:
    """Whether a constant added to the input of each channel adds a constant to each output."""
    if isinstance(layer, nn.Linear):
        return True
    if isinstance(layer, _ConvTransposeNd):  # else border outputs have fewer addends
        return (
            all(size == 1 for size in (*layer.kernel_size, *layer.stride))
            and not any(layer.output_padding)
            and not any(layer.padding)
        )
    assert isinstance(layer, _ConvNd)
    return layer.padding_mode != "zeros" or not any(layer._reversed_padding_repeated_twice)


def scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return s and t of y = s·x + t, (C,) in float64: s = γ/√(σ² + ε), t = β − s·μ.

    Args:
        norm: A batch norm with running statistics, or one of constant statistics.
    """
    mean, var = (getattr(norm, name).detach().double() for name in ("running_mean", "running_var"))
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    scale = (var + getattr(norm, "eps", 0.0)).rsqrt()
    if weight is not None:
        scale = scale * weight.detach().double()
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias.detach().double()
    return scale, shift


@torch.no_grad()
def absorb_behind_(layer: Layer, scale: Tensor, shift: Tensor) -> None:
    """Make ``layer`` compute scale·layer(x) + shift.

    Args:
        layer: A convolution or linear layer, changed in place; gets a bias if it has none.
        scale: (output channels,).
        shift: (output channels,).
    """
    weight = layer.weight
    values = weight.detach().double()
    if isinstance(layer, _ConvTransposeNd):  # (in, out / groups, …), the inputs of a group stand together
        grouped = _by_group(values, layer.groups)
        by_group = scale.view(layer.groups, 1, -1, *[1] * (grouped.dim() - 3))
        values = (grouped * by_group).flatten(0, 1)
    else:
        values = values * scale.view(-1, *[1] * (values.dim() - 1))
    bias = shift if layer.bias is None else layer.bias.detach().double() * scale + shift
    _write_(layer, values, bias)


@torch.no_grad()
def absorb_in_front_(layer: Layer, scale: Tensor, shift: Tensor) -> None:
    """Make ``layer`` compute layer(scale·x + shift), of a layer that pads with no zeros.

    Args:
        layer: A convolution or linear layer, changed in place; gets a bias if it has none. A transposed
            convolution must have kernel and stride 1.
        scale: (input channels,).
        shift: (input channels,).
    """
    weight = layer.weight.detach().double()
    if isinstance(layer, _ConvTransposeNd):
        by_group = _by_group(weight, layer.groups)  # (groups, in / groups, out / groups, …)
        added = torch.einsum("gio,gi->go", by_group.flatten(3).sum(3), shift.view(layer.groups, -1)).flatten()
        values = weight * scale.view(-1, *[1] * (weight.dim() - 1))
    else:
        groups = layer.groups if isinstance(layer, _ConvNd) else 1
        by_group = _by_group(weight, groups)  # (groups, out / groups, in / groups, …)
        added = torch.einsum(
            "goi,gi->go", by_group.flatten(3).sum(3) if weight.dim() > 2 else by_group, shift.view(groups, -1)
        ).flatten()
        spread = scale.view(groups, 1, -1, *[1] * (weight.dim() - 2))
        values = (by_group * spread).flatten(0, 1)
    bias = added if layer.bias is None else layer.bias.detach().double() + added
    _write_(layer, values, bias)


def _by_group(weight: Tensor, groups: int) -> Tensor:
    return weight.reshape(groups, -1, *weight.shape[1:])


def _write_(layer: Layer, weight: Tensor, bias: Tensor) -> None:
    layer.weight.copy_(weight)
    if layer.bias is None:
        new = torch.empty(bias.shape, dtype=layer.weight.dtype, device=layer.weight.device)
        layer.bias = nn.Parameter(new, requires_grad=layer.weight.requires_grad)
    layer.bias.copy_(bias)
