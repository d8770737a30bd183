"""A curve of all seeds: their median, in a band from the lowest to the highest."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from xhat.study.result import Curve

Floats = npt.NDArray[np.float64]


def span_curve(name: str, arm: str, x: Sequence[float] | Floats, rows: Sequence[Floats]) -> Curve:
    """Return the median over seeds at every x in a band from the lowest seed to the highest.

    Args:
        name: For the legend.
        arm: Chooses the colour.
        x: X points, shared by all seeds.
        rows: A row of X values a seed; values that are not finite are left out, and points without any.
    """
    values = np.stack(rows)
    some = np.isfinite(values).any(0)
    values = np.where(np.isfinite(values), values, np.nan)[:, some]
    of = (np.nanmedian, np.nanmin, np.nanmax)
    middle, low, high = (tuple(map(float, f(values, axis=0))) if some.any() else () for f in of)
    return Curve(name, arm, tuple(map(float, np.asarray(x)[some])), middle, low, high)
