"""Curves that several claims draw: means over seeds with their intervals, and names of the arms."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from xhat.study.result import Curve
from xhat.study.verdict import CONFIDENCE

Floats = npt.NDArray[np.float64]

ARM_NAMES = {"batch": "batch norm", "none": "no normalisation", "layer": "layer norm", "group": "group norm"}
# In a unit, where there is no room for a name; the same in every language.
ARM_SIGNS = {"batch": "BN", "none": "none", "layer": "LN", "group": "GN"}


def mean_curve(
    name: str, arm: str, x: Sequence[float] | Floats, rows: Sequence[Floats], *, log: bool = False
) -> Curve:
    """Return the mean over seeds at every x, with its t-interval at 95% as a band.

    Args:
        name: For the legend.
        arm: Chooses the colour.
        x: X points, shared by all seeds.
        rows: A row of X values a seed; values that are not finite are left out point by point.
        log: Take mean and interval of the logarithms (a geometric mean).
    """
    values = np.stack([np.asarray(row, dtype=np.float64) for row in rows])
    if log:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.log(values)
    values = np.where(np.isfinite(values), values, np.nan)
    count = np.isfinite(values).sum(0)
    filled = np.where(np.isfinite(values), values, 0.0)
    mean = np.where(count > 0, filled.sum(0) / np.maximum(count, 1), np.nan)
    squares = np.where(np.isfinite(values), (values - mean) ** 2, 0.0).sum(0)
    error = np.sqrt(squares / np.maximum(count - 1, 1) / np.maximum(count, 1))
    half = np.where(count > 1, stats.t.ppf((1 + CONFIDENCE) / 2, np.maximum(count - 1, 1)) * error, np.nan)
    bounds = [mean, mean - half, mean + half]
    if log:
        with np.errstate(over="ignore"):
            bounds = [np.exp(bound) for bound in bounds]
    middle, low, high = (tuple(map(float, bound)) for bound in bounds)
    return Curve(name, arm, tuple(map(float, x)), middle, low, high)


def range_curve(
    name: str,
    arm: str,
    x: Sequence[float] | Floats,
    lows: Sequence[Floats],
    highs: Sequence[Floats],
    *,
    log: bool = False,
) -> Curve:
    """Return the mean over seeds of a range [low, high], drawn as a band around its middle.

    With ``log`` means and middle are geometric, and not finite where a seed is not.
    """
    ends = np.stack([np.stack(lows), np.stack(highs)])
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.exp(np.log(ends).mean(axis=1)) if log else ends.mean(axis=1)
    middle = np.sqrt(low * high) if log else (low + high) / 2
    return Curve(
        name,
        arm,
        tuple(map(float, x)),
        tuple(map(float, middle)),
        tuple(map(float, low)),
        tuple(map(float, high)),
    )


def spaced(steps: int, count: int) -> tuple[int, ...]:
    """Return ``count`` training steps, evenly spaced from the first to the last."""
    return tuple(int(step) for step in np.unique(np.linspace(0, steps - 1, count).round()))
