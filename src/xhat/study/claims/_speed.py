"""How fast a training was: steps until test accuracy reaches a target."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from xhat.study.claims._tuned import Tuned, accuracy_curve, evaluated
from xhat.study.outcome import Outcome

Floats = npt.NDArray[np.float64]

BELOW = 1.0  # points below the plain network's best accuracy lies the target


def steps_to(target: float, at: Sequence[float], accuracy: Floats) -> float:
    """Return the steps until the curve first reaches ``target``, linear between points; inf if never."""
    reached = np.flatnonzero(accuracy >= target)
    if not len(reached):
        return math.inf
    place = int(reached[0])
    if place == 0:
        return float(at[0])
    below, above = accuracy[place - 1], accuracy[place]
    part = (target - below) / (above - below) if np.isfinite(below) else 1.0
    return float(at[place - 1] + part * (at[place] - at[place - 1]))


def best(outcome: Outcome) -> float:
    """Return the best test accuracy in per cent; of a run given up before the first measurement, the last."""
    curve = accuracy_curve(outcome)
    return float(np.nanmax(curve)) if np.isfinite(curve).any() else 100 * outcome.test_accuracy


def steps_of(arms: Mapping[str, Tuned], arm: str) -> Floats:
    """Return the steps to the plain network's accuracy less a point, one a seed."""
    found = [
        steps_to(best(plain) - BELOW, evaluated(len(outcome.loss)), accuracy_curve(outcome))
        for plain, outcome in zip(arms["none"].outcomes, arms[arm].outcomes, strict=True)
    ]
    return np.array(found)
