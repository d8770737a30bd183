"""Learning rates times scales of the initial weights: the runs that two claims share."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from xhat.study.claim import Context, Subject
from xhat.study.claims._best import Arm
from xhat.study.outcome import Outcome, Training, outcomes, specs
from xhat.study.spec import Member, TrainSpec
from xhat.study.store import Run
from xhat.study.subjects import mlp

Trained = Mapping[tuple[Arm, Member], Outcome]
Searching = Generator[Sequence[TrainSpec], Sequence[Run], tuple[Trained, tuple[str, ...]]]


@dataclass(frozen=True)
class Box:
    """What is searched, and for whom: every rate with every scale, for every seed and arm."""

    subject: Subject
    rates: tuple[float, ...]
    scales: tuple[float, ...]  # 1 is among them
    norms: tuple[str, ...]

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms as ``Trained`` names them."""
        return tuple((norm, self.subject.init) for norm in self.norms)


def own_box(context: Context) -> Box:
    """Return the box of our own network, an MLP of five hidden layers."""
    steps = {"full": 300}.get(context.preset)  # half the usual length: there are many members
    subject = context.subject(mlp(context.preset, depth=5, steps=steps))
    if context.preset == "smoke":
        return Box(subject, (0.03, 0.1, 0.3), scales(5), ("none", "layer", "batch"))
    return Box(subject, (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0), scales(9), ("none", "layer", "batch"))


def scales(count: int, *, low: float = 0.01) -> tuple[float, ...]:
    """Return scales from ``low`` to 1/low, geometrically spaced."""
    return tuple(float(f"{scale:.3g}") for scale in np.geomspace(low, 1 / low, count))


def searched(box: Box) -> Searching:
    """Train all of the box; return the outcomes and the keys of the runs."""
    members = [
        Member(seed, rate, box.subject.init, scale)
        for seed, scale, rate in product(range(box.subject.seeds), box.scales, box.rates)
    ]
    return (yield from trained_members(box.subject, dict.fromkeys(box.norms, members)))


def trained_members(subject: Subject, members: Mapping[str, Sequence[Member]]) -> Searching:
    """Train these members, given by normalisation; return the outcomes and the keys of the runs."""
    training = Training(subject.data, subject.steps, subject.batch_size)
    wanted = [
        spec
        for norm, asked in members.items()
        for spec in specs(subject.network.with_norm(norm), asked, training)
    ]
    runs = yield wanted
    trained = {
        ((network.norm, subject.init), member): outcome
        for (network, member), outcome in outcomes(wanted, runs).items()
    }
    return trained, tuple(dict.fromkeys(run.key for run in runs))
