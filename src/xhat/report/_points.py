"""What a panel's axes can show of a curve: its points and its band's outline, in plotly's terms."""

import math
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from xhat.study.result import Axis, Curve, Panel

Json = dict[str, Any]


def floor_of(panels: Iterable[Panel]) -> tuple[float, float]:
    """Return the least x and y that a panel's axes can show, in any of its frames.

    A band that reaches zero or less on a logarithmic axis ends a decade below its lowest curve.
    """
    drawn = list(panels)

    def least(axis: Axis, values: Iterable[float]) -> float:
        if not axis.log:
            return -math.inf
        return min((value for value in values if 0 < value < math.inf), default=1.0) / 10

    return (
        least(drawn[0].x, (value for panel in drawn for curve in panel.curves for value in curve.x)),
        least(drawn[0].y, (value for panel in drawn for curve in panel.curves for value in curve.y)),
    )


def points(curve: Curve | None, floor: tuple[float, float]) -> Json:
    """Return x and y with gaps; a frame without the curve leaves it empty."""
    if curve is None:
        return {"x": [], "y": []}
    return {"x": [_value(x, floor[0]) for x in curve.x], "y": [_value(y, floor[1]) for y in curve.y]}


def outline(curve: Curve | None, floor: tuple[float, float]) -> Json:
    """Go along the band's upper edge and back along its lower one; a gap parts it into polygons."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    if curve is None or curve.low is None or curve.high is None:
        return {"x": xs, "y": ys}
    rows = (
        (_value(x, floor[0]), _value(max(low, floor[1]), floor[1]), _value(high, floor[1]))
        for x, low, high in zip(curve.x, curve.low, curve.high, strict=True)
    )
    for whole, run in groupby(rows, key=lambda row: None not in row):
        if whole:
            x, low, high = zip(*run, strict=True)
            xs += [*x, *reversed(x), None]
            ys += [*high, *reversed(low), None]
    return {"x": xs[:-1], "y": ys[:-1]}


def _value(value: float, floor: float) -> float | None:
    """Return a value to seven digits; ``None``, a gap, for what the axis cannot show."""
    return float(f"{value:.7g}") if math.isfinite(value) and value >= floor else None
