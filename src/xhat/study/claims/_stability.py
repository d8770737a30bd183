"""Loss spikes, at which the batch loss leaps above what it was just before, and trainings that fail."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from xhat.study.outcome import Outcome

WINDOW = 20  # steps before, whose median is the level
FACTOR = 1.5  # times the level
EXCESS = 0.1  # of chance above the level


def spikes(loss: npt.NDArray[np.float64], chance: float, *, excess: float = EXCESS) -> npt.NDArray[np.bool_]:
    """Return, for every step with ``WINDOW`` steps before it, whether its loss is a spike.

    Both conditions are needed: the first alone would count the noise of batches once the loss is small,
    the second alone would count it while the loss is large.
    """
    if len(loss) <= WINDOW:
        return np.zeros(0, dtype=bool)
    level = np.median(np.lib.stride_tricks.sliding_window_view(loss[:-1], WINDOW), axis=1)
    return np.asarray(loss[WINDOW:] > np.maximum(FACTOR * level, level + excess * chance))


def rate_of_spikes(outcome: Outcome, *, excess: float = EXCESS, late: bool = False) -> float:
    """Return the share of steps that are spikes; NaN if the training is too short to say.

    Args:
        outcome: A training.
        excess: 0 for spikes by the relative condition alone.
        late: Count in the second half of the training only.
    """
    found = spikes(outcome.loss, float(outcome.run.arrays["chance"][outcome.index]), excess=excess)
    if late:
        found = found[max(0, len(outcome.loss) // 2 - WINDOW) :]
    return float(found.mean()) if len(found) else np.nan


def failing(outcomes: Sequence[Outcome], *, infinite: bool = False) -> list[bool]:
    """Return of each training whether it does not train, or with ``infinite`` whether it becomes infinite."""
    return [not np.isfinite(o.loss).all() if infinite else not o.trains for o in outcomes]
