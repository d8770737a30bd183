"""Networks compared where their training losses are equal, wherever in training that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xhat.study.outcome import Outcome

Floats = npt.NDArray[np.float64]
LEAST = 1e-9  # of a training loss: float32's cross-entropy can come out as 0


@dataclass(frozen=True)
class Path:
    """One network on its way through training, all in evaluation mode; A evaluations."""

    train_loss: Floats  # (A,)
    test_loss: Floats  # (A,)
    accuracy: Floats  # (A,), test, per cent

    @property
    def reached(self) -> float:
        """The least training loss."""
        return float(self.train_loss.min())


def path(outcome: Outcome) -> Path:
    """Return the path of a run that was evaluated on training samples too, and not given up."""
    return Path(
        np.maximum(outcome.measured("evaluate", "train_loss"), LEAST),
        outcome.measured("evaluate", "test_loss"),
        100 * outcome.measured("evaluate", "accuracy"),
    )


def common_loss(paths: Sequence[Path]) -> float:
    """Return the least training loss that all reach."""
    return max(one.reached for one in paths)


def at_loss(loss: Floats, values: Floats, target: float) -> float:
    """Return ``values`` where ``loss`` first comes down to ``target``, NaN if it never does.

    Interpolated between evaluations, linearly in the logarithm of the loss.
    """
    below = np.flatnonzero(loss <= target)
    if not len(below):
        return float("nan")
    place = int(below[0])
    if place == 0:
        return float(values[0])
    before, after = np.log(loss[place - 1]), np.log(loss[place])
    part = (before - np.log(target)) / (before - after)
    return float(values[place - 1] + part * (values[place] - values[place - 1]))
