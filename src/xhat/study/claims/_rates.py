"""The largest learning rate that trains, by arm and seed: on a whole grid, or searched from above."""

from collections.abc import Generator, Mapping, Sequence

from xhat.study.claim import Subject
from xhat.study.outcome import Outcome, Training, outcomes, specs
from xhat.study.spec import Member, TrainSpec
from xhat.study.store import Run

RATES = tuple(0.0125 * 2**k for k in range(14))  # up to 102.4
TOP = 11  # where the search in larger networks starts: 25.6

Largest = dict[str, list[float | None]]  # by arm, a rate a seed; None: no rate trains
Search = Generator[Sequence[TrainSpec], Sequence[Run], tuple[Largest, Sequence[Run]]]


def on_grid(
    subject: Subject, arms: Sequence[str] = ("none", "batch", "layer")
) -> Generator[Sequence[TrainSpec], Sequence[Run], tuple[dict[tuple[str, Member], Outcome], Sequence[Run]]]:
    """Train all rates of the grid as one ensemble an arm; other claims ask for the same runs."""
    members = [Member(seed, rate, subject.init) for seed in range(subject.seeds) for rate in RATES]
    training = Training(subject.data, subject.steps, subject.batch_size)
    wanted = [s for norm in arms for s in specs(subject.network.with_norm(norm), members, training)]
    runs = yield wanted
    found = {(n.norm, member): outcome for (n, member), outcome in outcomes(wanted, runs).items()}
    return found, runs


def largest_rates(subject: Subject, trained: Mapping[tuple[str, Member], Outcome]) -> Largest:
    """Return the largest rate of the grid that trains, by arm and seed."""
    return {
        norm: [
            max((r for r in RATES if trained[norm, Member(seed, r, subject.init)].trains), default=None)
            for seed in range(subject.seeds)
        ]
        for norm in dict.fromkeys(norm for norm, _ in trained)
    }


def descend(subject: Subject, arms: Sequence[str] = ("none", "batch")) -> Search:
    """Come down the grid in steps of four to the first rate that trains, then try the one above it.

    From above, because a rate may fail by being too small as well as too large.

    Returns:
        The largest rates, and the runs.
    """
    training = Training(subject.data, subject.steps, subject.batch_size)
    cases = [(norm, seed) for norm in arms for seed in range(subject.seeds)]
    largest: dict[tuple[str, int], int] = {}
    all_runs: list[Run] = []

    def ask(
        places: dict[tuple[str, int], int],
    ) -> Generator[Sequence[TrainSpec], Sequence[Run], dict[tuple[str, int], bool]]:
        wanted = [
            specs(subject.network.with_norm(norm), [_member(subject, seed, place)], training)[0]
            for (norm, seed), place in places.items()
        ]
        runs = yield wanted
        all_runs.extend(runs)
        return {case: bool(run.arrays["trains"][0]) for case, run in zip(places, runs, strict=True)}

    for place in (*range(TOP, 0, -2), 0):
        open_ = [case for case in cases if case not in largest]
        if open_:
            trains = yield from ask(dict.fromkeys(open_, place))
            largest |= {case: place for case in open_ if trains[case]}
    above = {case: place + 1 for case, place in largest.items() if place < TOP}
    if above:
        trains = yield from ask(above)
        largest |= {case: above[case] for case in above if trains[case]}
    found: Largest = {
        norm: [
            RATES[place] if (place := largest.get((norm, seed))) is not None else None
            for seed in range(subject.seeds)
        ]
        for norm in arms
    }
    return found, all_runs


def _member(subject: Subject, seed: int, place: int) -> Member:
    return Member(seed, RATES[place], subject.init)


def last_rate(subject: Subject) -> float:
    """Return the largest rate tried."""
    return float(RATES[-1] if subject.network.is_ensemble else RATES[TOP])
