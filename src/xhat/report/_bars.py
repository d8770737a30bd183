"""The small bar that shows an effect's interval against its threshold."""

import math
import re
from dataclasses import dataclass

from xhat.study.result import Effect


@dataclass(frozen=True)
class Bar:
    """Positions in percent of the bar's width; ``None`` where there is nothing to draw."""

    low: float
    high: float
    estimate: float
    region: tuple[float, float]  # where the threshold's rule holds
    ticks: tuple[float, ...]  # the threshold, or both ends of the margin
    zero: float | None  # where there is no effect
    open_low: bool  # the interval has no end on this side
    open_high: bool


def is_ratio(effect: Effect) -> bool:
    """Return whether no effect is one, not zero: a ratio, by its unit."""
    return bool(re.search(r"\bratio\b", effect.unit))


def bar(effect: Effect) -> Bar | None:
    """Place an effect on its own axis; ratios that are far apart go on a logarithmic one."""
    ends = (effect.low, effect.high)
    if not math.isfinite(effect.estimate) or any(math.isnan(end) for end in ends):
        return None
    limits: tuple[float, ...] = (
        (effect.threshold,) if effect.rule == "above" else (-effect.threshold, effect.threshold)
    )
    neutral = 1.0 if is_ratio(effect) else 0.0
    values = [value for value in (*ends, effect.estimate, *limits) if math.isfinite(value)]
    log = neutral == 1.0 and min(values) > 0 and max(values) > 20 * min(values)
    if log:
        values = [math.log(value) for value in values]
    start, stop = min(values), max(values)
    pad = 0.12 * (stop - start) or 1.0
    start, stop = start - pad, stop + pad

    def place(value: float) -> float:
        at: float = math.log(value) if log and math.isfinite(value) else value
        return round(100 * min(1.0, max(0.0, (at - start) / (stop - start))), 2)

    ticks = tuple(place(limit) for limit in limits)
    here = place(neutral)
    return Bar(
        low=place(effect.low),
        high=100.0 if effect.at_least else place(effect.high),
        estimate=place(effect.estimate),
        region=(ticks[0], 100.0) if effect.rule == "above" else (ticks[0], ticks[-1]),
        ticks=ticks,
        zero=here if 0 < here < 100 else None,
        open_low=math.isinf(effect.low),
        open_high=math.isinf(effect.high) or effect.at_least,
    )
