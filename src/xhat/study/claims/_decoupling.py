"""What the claim "decoupling" reads from its runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xhat.study.claim import Subject
from xhat.study.measures.control import WAYS
from xhat.study.measures.perturb import CASES
from xhat.study.outcome import Outcome

Floats = npt.NDArray[np.float64]

SIZES = (0.01, 0.03, 0.1, 0.3)  # r, ‖δ‖ over ‖W‖
DECIDES = 0.1
LAYERS = (4, 6)  # blocks from 0: of eight, a middle and a late one; no pooling follows them in VGG
MIDDLE, LATE = LAYERS
CAP = 100  # steps of gradient descent

# By name, the arm and the case that it shows.
SHIFTS = {
    "none": ("none", "batch"),
    "batch": ("batch", "batch"),
    "running": ("batch", "running"),
    "affine": ("batch", "affine"),
}
# By name, the arm and the way that it goes.
WAYS_TAKEN = {
    "batch": ("batch", "affine"),
    "all": ("none", "all"),
    "layer": ("none", "layer"),
    "fixed": ("batch", "all"),
}


@dataclass(frozen=True)
class Seen:
    """A network trained and measured in both arms, seed by seed."""

    subject: Subject
    arms: dict[str, tuple[Outcome, ...]]

    def pairs(self, *, end: bool) -> list[int]:
        """Return the seeds that can be compared: at the end those that train in both arms."""
        outcomes = zip(*self.arms.values(), strict=True)
        return [
            seed for seed, both in enumerate(outcomes) if not end or all(outcome.trains for outcome in both)
        ]

    def shift(self, name: str, layer: int, *, end: bool) -> Floats:
        """Return the shift of a layer's moments, (pairs, sizes)."""
        arm, case = SHIFTS[name]
        place = CASES.index(case), LAYERS.index(layer)
        return self._of(arm, "perturb", "shift", end=end)[:, *place]

    def ratios(self, name: str, layer: int, *, end: bool = True) -> Floats:
        """Return ln of the shift without BN over that of ``name``, at the size that decides, (pairs,)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            logs: Floats = np.log(decides(self.shift("none", layer, end=end))) - np.log(
                decides(self.shift(name, layer, end=end))
            )
        return logs

    def compared(self, name: str, layer: int, *, end: bool) -> Floats:
        """Return the share of units that enter the shift, (pairs, sizes)."""
        arm, case = SHIFTS[name]
        place = CASES.index(case), LAYERS.index(layer)
        return self._of(arm, "perturb", "alive", end=end)[:, *place]

    def control(self, name: str, array: str, *, end: bool) -> Floats:
        """Return an array of the control, (pairs, ...): "steps", "error" or "rate"."""
        arm, way = WAYS_TAKEN[name]
        return self._of(arm, "control", array, end=end)[:, WAYS.index(way)]

    def _of(self, arm: str, kind: str, array: str, *, end: bool) -> Floats:
        found = [self.arms[arm][seed].measured(kind, array) for seed in self.pairs(end=end)]
        if not found:  # nothing to compare: no rows of the right shape
            return self.arms[arm][0].measured(kind, array)[:0]
        return np.stack([taken[-1 if end else 0] for taken in found])


def middle(values: Floats) -> float:
    """Return the geometric mean of what is finite, NaN if nothing is."""
    finite = values[np.isfinite(values) & (values > 0)]
    return float(np.exp(np.log(finite).mean())) if len(finite) else float("nan")


def decides(values: Floats, sizes: Sequence[float] = SIZES) -> Floats:
    """Return the column of the size that decides."""
    return values[:, list(sizes).index(DECIDES)]
