"""How much more seeds of one arm differ than those of another: the ratio of standard deviations over pairs."""

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

from xhat.lang import listed, say
from xhat.study.result import Effect
from xhat.study.verdict import CONFIDENCE, MIN_PAIRS, judge

Floats = npt.NDArray[np.float64]

METHOD = "interval by Pitman and Morgan, for values that are normal"


def sd_ratio(name: str, unit: str, over: Floats, under: Floats, *, note: str = "") -> Effect:
    """Return sd(over) / sd(under) over the same seeds, outside the verdict, held against 1.

    With F the ratio of the unbiased variances, r the correlation of the n pairs, t the quantile of Student's t
    with n - 2 degrees of freedom and K = 1 + 2(1 - r²)t²/(n - 2), the ratio of the variances lies in
    F(K ± √(K² - 1)). Exact for pairs that are normal together, whatever r (Pitman 1939; Morgan 1939).
    """
    estimate, low, high = interval(over, under)
    notes = [METHOD, note]
    few = ""
    if len(over) < MIN_PAIRS:
        few = say(
            "{pairs} pairs of runs could be compared; {needed} are needed.",
            pairs=len(over),
            needed=MIN_PAIRS,
        )
    elif not math.isfinite(estimate):
        notes.insert(0, "the seeds of an arm do not differ")
    return Effect(
        name,
        unit,
        estimate,
        low,
        high,
        1.0,
        "above",
        len(over),
        judge(low, high, 1.0, "above"),
        primary=False,
        note=listed(filter(None, (few, listed(filter(None, notes)))), " "),
    )


def interval(over: Floats, under: Floats) -> tuple[float, float, float]:
    """Return the ratio of standard deviations and its interval at 95%; NaN and [0, inf] if there is none."""
    count = len(over)
    if count < MIN_PAIRS or not over.std() > 0 or not under.std() > 0:
        return math.nan, 0.0, math.inf
    squared = over.var(ddof=1) / under.var(ddof=1)
    r = np.corrcoef(over, under)[0, 1]
    t = stats.t.ppf((1 + CONFIDENCE) / 2, count - 2)
    k = 1 + 2 * max(0.0, 1 - r**2) * t**2 / (count - 2)
    width = k + math.sqrt(k**2 - 1)
    return math.sqrt(squared), math.sqrt(squared / width), math.sqrt(squared * width)
