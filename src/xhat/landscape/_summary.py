"""Summaries of one layer's values: moments, quantiles and dead units, with units as the last axis but one."""

from dataclasses import dataclass
from math import gcd

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float32]

# Positions of a feature map that enter the quantiles: enough for percentiles to a few per cent.
MAX_SAMPLES = 1024


@dataclass(frozen=True)
class Summary:
    """One layer at one step, for M members with C units each (M = 1 unless the model is an ensemble)."""

    mean: Array  # (M, C)
    std: Array  # (M, C), biased
    dead: Array  # (M,) share of units with one and the same value for every input
    pooled: Array  # (M, Q) quantiles over all values
    units: Array  # (M, U, Q) quantiles of a fixed choice of units


def by_unit(values: Tensor, *, members: int | None, last: bool) -> Tensor:
    """Return ``values`` as (members, units, samples).

    Args:
        values: (members or groups, C, N) of an ensemble, else (N, C), (N, C, ``*``), or (N, ``*``, C) if ``last``.
        members: The ensemble's members, or None for a plain model.
        last: Whether units are the last axis, as linear layers have them.
    """
    if members is not None:
        groups = values.shape[0]  # neighbours that share an input
        return values[:, None].expand(-1, members // groups, -1, -1).reshape(members, *values.shape[1:])
    if last:
        return values.reshape(-1, values.shape[-1]).t()[None]
    return values.transpose(0, 1).reshape(1, values.shape[1], -1)


def summarise(values: Tensor, *, quantiles: Array, units: int) -> Summary:
    """Summarise values of shape (members, units, samples); up to ``units`` evenly spaced units are kept."""
    values = values.detach().float()
    var, mean = torch.var_mean(values, dim=2, correction=0)
    constant = values.amax(2) == values.amin(2)
    sampled = _thinned(values, MAX_SAMPLES)
    pooled = sampled.reshape(values.shape[0], -1)
    chosen = torch.linspace(0, values.shape[1] - 1, min(units, values.shape[1])).round().long()
    return Summary(
        mean=mean.cpu().numpy(),
        std=var.sqrt().cpu().numpy(),
        dead=constant.float().mean(1).cpu().numpy(),
        pooled=_quantiles(_thinned(pooled, 2 * MAX_SAMPLES), quantiles),
        units=_quantiles(sampled[:, chosen], quantiles),
    )


def _thinned(values: Tensor, most: int) -> Tensor:
    """Return at most ``most`` evenly spaced samples of the last axis."""
    samples = values.shape[-1]
    stride = -(-samples // most)
    # A stride that divides the width of a feature map would only meet its first column, the padded border.
    while gcd(stride, samples) > 1:
        stride += 1
    return values[..., ::stride]


def _quantiles(values: Tensor, quantiles: Array) -> Array:
    ordered = np.sort(values.cpu().numpy(), axis=-1)  # ten times torch's sort; NaN go last
    place = quantiles * (ordered.shape[-1] - 1)
    below = np.floor(place).astype(int)
    part = (place - below).astype(np.float32)
    lower, upper = ordered[..., below], ordered[..., np.ceil(place).astype(int)]
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf, in a network that diverges
        return np.asarray(lower + part * (upper - lower))
