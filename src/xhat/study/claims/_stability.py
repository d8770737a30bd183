"""Loss spikes: steps at which the batch loss leaps above what it was just before."""

import numpy as np
import numpy.typing as npt

from xhat.study.outcome import Outcome

WINDOW = 20  # steps before, whose median is the level
FACTOR = 1.5  # times the level
EXCESS = 0.1  # of chance above the level


def spikes(loss: npt.NDArray[np.float64], chance: float) -> npt.NDArray[np.bool_]:
    """Return, for every step with ``WINDOW`` steps before it, whether its loss is a spike.

    Both conditions are needed: the first alone would count the noise of batches once the loss is small,
    the second alone would count it while the loss is large.
    """
    if len(loss) <= WINDOW:
        return np.zeros(0, dtype=bool)
    level = np.median(np.lib.stride_tricks.sliding_window_view(loss[:-1], WINDOW), axis=1)
    return np.asarray(loss[WINDOW:] > np.maximum(FACTOR * level, level + EXCESS * chance))


def rate_of_spikes(outcome: Outcome) -> float:
    """Return the share of steps that are spikes; NaN if the training is too short to say."""
    found = spikes(outcome.loss, float(outcome.run.arrays["chance"][outcome.index]))
    return float(found.mean()) if len(found) else np.nan
