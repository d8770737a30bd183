"""Test accuracy late in the training: a mean, since a single measurement jumps."""

import numpy as np

from xhat.study.claims._tuned import accuracy_curve, evaluated
from xhat.study.outcome import Outcome


def late_accuracy(outcome: Outcome) -> float:
    """Return test accuracy in per cent, mean over the measurements in the second half: the last three.

    Those that were not taken, since the run was given up, count as what it came to.
    """
    at = np.array(evaluated(len(outcome.loss)))
    late = accuracy_curve(outcome)[at > len(outcome.loss) / 2]
    return float(np.where(np.isfinite(late), late, 100 * outcome.test_accuracy).mean())
