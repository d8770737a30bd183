"""Every arm trained at its own best learning rate of one grid: the runs that many claims share."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from xhat.study.claim import Subject
from xhat.study.measures import Evaluate
from xhat.study.outcome import Outcome, Training, outcomes, specs
from xhat.study.spec import Member, Network, TrainSpec
from xhat.study.store import Run

RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
TUNING_SEEDS = 2  # at least, and half of all: of a larger network, whose every run is dear
EVALUATIONS = 14  # points of the test curve, each a fixed factor after the one before it
FIRST = 30  # the first stands at this part of the steps: whoever is fast is told apart early


@dataclass(frozen=True)
class Tuned:
    """An arm at its best rate, and what the choice rests on."""

    rate: float
    outcomes: tuple[Outcome, ...]  # one a seed
    tried: Mapping[float, tuple[Outcome, ...]]  # by rate, the runs that the choice rests on
    at_edge: bool  # the best rate is the grid's lowest or highest: a better one may lie beyond

    @property
    def accuracy(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Test accuracy in per cent, one a seed."""
        return np.array([100 * outcome.test_accuracy for outcome in self.outcomes])

    @property
    def rest(self) -> tuple[Outcome, ...]:
        """Those of the seeds that did not choose the rate."""
        return self.outcomes[len(self.tried[self.rate]) :]


Tuning = Generator[Sequence[TrainSpec], Sequence[Run], tuple[dict[str, Tuned], tuple[str, ...]]]


def standard(subject: Subject) -> Training:
    """Return how every claim trains whose runs others can use too: with test accuracy along the way."""
    return Training(
        subject.data, subject.steps, subject.batch_size, measures=(Evaluate(evaluated(subject.steps)),)
    )


def evaluated(steps: int) -> tuple[int, ...]:
    """Return when test accuracy is measured: geometrically spaced, up to the end of ``steps``."""
    at = np.geomspace(max(1, steps // FIRST), steps, EVALUATIONS).round()
    return tuple(int(step) for step in np.unique(at))


def accuracy_curve(outcome: Outcome) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return test accuracy in per cent at the ``evaluated`` steps; NaN from where the run was given up."""
    curve = np.full(len(evaluated(len(outcome.loss))), np.nan)
    if "evaluate_accuracy" in outcome.run.arrays:  # else it was given up before the first
        found = outcome.measured("evaluate", "accuracy")
        curve[: len(found)] = 100 * found
    return curve


def tuned(
    subject: Subject,
    arms: Mapping[str, Network],
    *,
    rates: Sequence[float] = RATES,
    training: Training | None = None,
    inits: Mapping[str, str] | None = None,
    loss: Callable[[Outcome], float] = lambda outcome: outcome.final_loss,
) -> Tuning:
    """Train every arm at its best rate, by the mean final training loss; test accuracy stays unseen.

    Rates at which all seeds that choose train go before those at which one does not: a rate at the edge would
    fail on other seeds too. A rate at which one becomes infinite is out. Of an ensemble all seeds run at all rates and
    choose; of larger networks, whose every run is dear, half of the seeds do, and two at least.

    Args:
        subject: Gives data, steps, batch size and seeds.
        arms: Networks by name.
        rates: The grid, the same for all arms, ascending.
        training: ``standard(subject)`` by default.
        inits: By arm, an initialisation other than the subject's.
        loss: Another training loss to choose by.

    Returns:
        The arms, and the keys of the runs they rest on.
    """
    how = training or standard(subject)
    few = min(max(TUNING_SEEDS, subject.seeds // 2), subject.seeds)
    tuning = range(subject.seeds if subject.network.is_ensemble else few)
    init = {arm: (inits or {}).get(arm, subject.init) for arm in arms}
    wanted = [
        spec
        for arm, network in arms.items()
        for spec in specs(network, [Member(s, rate, init[arm]) for s in tuning for rate in rates], how)
    ]
    runs = list((yield wanted))
    found = outcomes(wanted, runs)

    def of(arm: str, seeds: Sequence[int], rate: float) -> tuple[Outcome, ...]:
        return tuple(found[arms[arm], Member(seed, rate, init[arm])] for seed in seeds)

    def rank(arm: str, rate: float) -> tuple[bool, float]:
        tried = of(arm, tuning, rate)
        mean = float(np.mean([loss(outcome) for outcome in tried]))
        return not all(outcome.trains for outcome in tried), mean if np.isfinite(mean) else np.inf

    best = {arm: min(rates, key=partial(rank, arm)) for arm in arms}
    rest = range(len(tuning), subject.seeds)
    if rest:
        wanted = [
            spec
            for arm, network in arms.items()
            for spec in specs(network, [Member(seed, best[arm], init[arm]) for seed in rest], how)
        ]
        more = yield wanted
        runs += more
        found |= outcomes(wanted, more)
    return {
        arm: Tuned(
            best[arm],
            of(arm, range(subject.seeds), best[arm]),
            {rate: of(arm, tuning, rate) for rate in rates},
            best[arm] in (rates[0], rates[-1]),
        )
        for arm in arms
    }, tuple(dict.fromkeys(run.key for run in runs))
