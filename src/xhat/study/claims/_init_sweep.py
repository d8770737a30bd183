"""An arm over all scales of the initial weights, and what two arms' ranges of scales tell."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from xhat.lang import listed, say
from xhat.study.claims._best import Arm, best_rate
from xhat.study.claims._search_box import Box, Trained
from xhat.study.curves import ARM_NAMES, ARM_SIGNS
from xhat.study.result import Effect
from xhat.study.spec import Member
from xhat.study.verdict import MIN_PAIRS, difference, judge

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# Committed before the first run.
WITHIN = 5.0  # points of accuracy: what counts as workable, and as no difference
CORE = (0.1, 10.0)  # the scales over which "not sensitive" is taken at its word

KEPT = ("none", "batch")  # arms that are trained with the output layer left at scale 1, too


@dataclass(frozen=True)
class Sweep:
    """One arm over all scales, shapes (seeds, scales)."""

    accuracy: Floats  # on the test set, per cent
    trains: Bools
    scales: tuple[float, ...]

    @property
    def workable(self) -> Bools:
        """Where the network trains, and is almost as good as this arm and seed ever is."""
        return np.asarray(self.trains & (self.accuracy >= self.accuracy.max(axis=1, keepdims=True) - WITHIN))

    @property
    def range(self) -> Floats:
        """Decades between the workable scales that lie farthest apart, a seed each; 0 for one or none."""
        decades = np.log10(self.scales)
        return np.array([np.ptp(decades[row]) if row.any() else 0.0 for row in self.workable])

    @property
    def open(self) -> Bools:
        """Whether the workable range reaches an end of the scales, a seed each: it may be wider."""
        return np.asarray(self.workable[:, 0] | self.workable[:, -1])

    def losses(self) -> dict[float, Floats]:
        """Return for every core scale but 1 the points lost from scale 1, of the seeds that train there."""
        one = self.scales.index(1.0)
        train = self.trains[:, one]
        return {
            scale: (self.accuracy[:, one] - self.accuracy[:, place])[train]
            for place, scale in enumerate(self.scales)
            if scale in core(self.scales)
        }


Sweeps = Mapping[Arm, Sweep]


def core(scales: tuple[float, ...]) -> tuple[float, ...]:
    """Return the scales at which a network must do as well as at 1."""
    return tuple(scale for scale in scales if CORE[0] <= scale <= CORE[1] and scale != 1.0)


def sweep(trained: Trained, arm: Arm, box: Box, *, own: bool = False) -> Sweep:
    """Return an arm's runs at its best rate at scale 1, or (``own``) at each scale's own best."""
    best = {
        scale: best_rate(trained, arm, seeds=box.subject.seeds, rates=box.rates, scale=scale if own else 1.0)
        for scale in box.scales
    }
    return _read(trained, arm, box, box.scales, lambda seed, scale: Member(seed, best[scale], arm[1], scale))


def kept_members(trained: Trained, box: Box) -> dict[str, list[Member]]:
    """Return by arm the core scales once more, at the same rate, with the output layer left at scale 1."""
    seeds = range(box.subject.seeds)
    arms = [arm for arm in box.arms if arm[0] in KEPT]
    return {
        arm[0]: [_kept(trained, arm, box)(seed, scale) for seed in seeds for scale in core(box.scales)]
        for arm in arms
    }


def kept_sweep(trained: Trained, arm: Arm, box: Box) -> Sweep:
    """Return an arm over scale 1 and the core scales with the output layer left at scale 1."""
    scales = tuple(sorted((*core(box.scales), 1.0)))
    return _read(trained, arm, box, scales, _kept(trained, arm, box))


def _kept(trained: Trained, arm: Arm, box: Box) -> Callable[[int, float], Member]:
    rate = best_rate(trained, arm, seeds=box.subject.seeds, rates=box.rates)

    def member(seed: int, scale: float) -> Member:
        return Member(seed, rate, arm[1], scale, output_scale=None if scale == 1.0 else 1.0)

    return member


def _read(
    trained: Trained,
    arm: Arm,
    box: Box,
    scales: tuple[float, ...],
    member: Callable[[int, float], Member],
) -> Sweep:
    rows = [[trained[arm, member(seed, scale)] for scale in scales] for seed in range(box.subject.seeds)]
    return Sweep(
        accuracy=np.array([[100 * outcome.test_accuracy for outcome in row] for row in rows]),
        trains=np.array([[outcome.trains for outcome in row] for row in rows]),
        scales=scales,
    )


def wider(
    name: str, sweeps: Sweeps, arm: Arm, than: Arm, *, threshold: float, primary: bool = False
) -> Effect:
    """Return by how many decades an arm's workable range is wider than another's, as far as it is known.

    A range that reaches an end of the scales may be wider than seen. If the other arm's does, the difference may
    be smaller, without bound: the interval has no lower end, and nothing is supported. If the first arm's
    does, it may be larger: the interval has no upper end, and nothing is contradicted.
    """
    a, b = sweeps[arm], sweeps[than]
    some = a.trains.any(axis=1) | b.trains.any(axis=1)
    a_open, b_open = (int((side.open & some).sum()) for side in (a, b))
    notes = []
    if not some.all():
        notes.append(say("{count} seeds left out that train at no scale", count=int((~some).sum())))
    if a_open:
        notes.append(
            say(
                "in {count} seeds {arm} works up to an end of the scales and may do so beyond: the interval has no "
                "upper end",
                count=a_open,
                arm=ARM_NAMES[arm[0]],
            )
        )
    if b_open:
        notes.append(
            say(
                "in {count} seeds {arm} works up to an end of the scales and may do so beyond: the interval has no "
                "lower end",
                count=b_open,
                arm=ARM_NAMES[than[0]],
            )
        )
    seen = difference(
        name,
        say("decades, {arm} − {than}", arm=ARM_SIGNS[arm[0]], than=ARM_SIGNS[than[0]]),
        list((a.range - b.range)[some]),
        threshold=threshold,
        primary=primary,
        at_least=bool(a_open and not b_open),
        note=listed(notes),
    )
    low, high = -np.inf if b_open else seen.low, np.inf if a_open else seen.high
    verdict = judge(low, high, threshold, "above") if seen.seeds >= MIN_PAIRS else "inconclusive"
    return replace(seen, low=low, high=high, verdict=verdict)


def lost(swept: Sweep, name: Callable[[float], str], *, primary: bool = False) -> Effect:
    """Return the points lost from scale 1 at the core scale whose interval reaches farthest from 0.

    It lies within the threshold only if those of all core scales do.
    """
    losses = swept.losses()
    left_out = len(swept.trains) - len(next(iter(losses.values())))
    notes = [
        say(
            "of {count} scales from {low:g} to {high:g} the one whose interval reaches farthest from 0",
            count=len(losses),
            low=CORE[0],
            high=CORE[1],
        )
    ]
    if left_out:
        notes.append(say("{count} seeds left out that do not train at scale 1", count=left_out))
    effects = [
        difference(
            name(scale),
            "points",
            list(points),
            threshold=WITHIN,
            rule="within",
            primary=primary,
            note=listed(notes),
        )
        for scale, points in losses.items()
    ]
    return max(effects, key=lambda effect: max(abs(effect.low), abs(effect.high)))
