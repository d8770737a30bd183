"""From paired differences over seeds to an effect with its interval and verdict."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import stats

from xhat.lang import listed, say
from xhat.study.result import Effect, Verdict

CONFIDENCE = 0.95
MIN_PAIRS = 3
_SLACK = 1e-9


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean and Student's t-interval at 95% of independent values, one a seed.

    With fewer than 2 values, or none finite, the interval is the whole line.
    """
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2 or not np.isfinite(sample).all():
        with np.errstate(invalid="ignore"):  # inf and -inf have no mean
            mean = float(sample.mean()) if len(sample) else math.nan
        return mean, -math.inf, math.inf
    mean = float(sample.mean())
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(sample) - 1) * stats.sem(sample))
    return mean, mean - half, mean + half


def judge(low: float, high: float, threshold: float, rule: Literal["above", "within"]) -> Verdict:
    """Hold an interval against a threshold: see ``Effect``."""
    slack = _SLACK * max(1.0, abs(threshold))  # an end on the threshold itself decides nothing
    if rule == "above":
        if low > threshold + slack:
            return "supported"
        return "contradicted" if high < threshold - slack else "inconclusive"
    if -threshold + slack < low and high < threshold - slack:
        return "supported"
    return "contradicted" if low > threshold + slack or high < -threshold - slack else "inconclusive"


def difference(
    name: str,
    unit: str,
    values: Sequence[float],
    *,
    threshold: float,
    rule: Literal["above", "within"] = "above",
    primary: bool = True,
    at_least: bool = False,
    note: str = "",
) -> Effect:
    """Return the effect of paired differences, one a seed; fewer than 3 pairs are inconclusive."""
    mean, low, high = interval(values)
    verdict: Verdict = judge(low, high, threshold, rule) if len(values) >= MIN_PAIRS else "inconclusive"
    if len(values) < MIN_PAIRS:
        few = say(
            "{pairs} pairs of runs could be compared; {needed} are needed.",
            pairs=len(values),
            needed=MIN_PAIRS,
        )
        note = listed(filter(None, (few, note)), " ")
    return Effect(name, unit, mean, low, high, threshold, rule, len(values), verdict, primary, at_least, note)


def ratio(
    name: str,
    unit: str,
    logs: Sequence[float],
    *,
    threshold: float,
    primary: bool = True,
    at_least: bool = False,
    note: str = "",
) -> Effect:
    """Return the effect of paired ratios, given as natural logarithms; threshold and interval are ratios.

    The estimate is the geometric mean.
    """
    effect = difference(
        name, unit, logs, threshold=math.log(threshold), primary=primary, at_least=at_least, note=note
    )
    return Effect(
        name,
        unit,
        _exp(effect.estimate),
        _exp(effect.low),
        _exp(effect.high),
        threshold,
        "above",
        effect.seeds,
        effect.verdict,
        primary,
        at_least,
        effect.note,
    )


def _exp(value: float) -> float:
    return math.inf if value >= 700 else math.exp(value)
