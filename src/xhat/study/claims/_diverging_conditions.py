"""The conditions of diverging-distributions: networks that converge, and networks that do not, by name."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from xhat.lang import say
from xhat.study.claim import Subject
from xhat.study.claims._drift import Watched
from xhat.study.claims._rates import RATES, Largest, descend, largest_rates, on_grid
from xhat.study.spec import Member, Network, TrainSpec
from xhat.study.store import Run

CONVERGES, BN_CONVERGES = "plain, lr 0.1", "BN, lr 0.1"
EDGE, ABOVE = "plain, largest lr that trains", "plain, one step above it"
BN_ABOVE = "BN, one step above its largest"


@dataclass(frozen=True)
class Condition:
    """One way to train, with a learning rate a seed."""

    name: str
    network: Network
    members: tuple[Member, ...]


Conditions = Generator[Sequence[TrainSpec], Sequence[Run], tuple[list[Condition], list[str]]]


def ours(subject: Subject) -> Conditions:
    """Return our conditions, and the keys of larger-lr's runs, which tell the largest rates that train."""
    trained, runs = yield from on_grid(subject, ("none", "batch"))
    largest = largest_rates(subject, trained)
    plain, batch = subject.network.with_norm("none"), subject.network.with_norm("batch")
    steady = _all_at(subject, 0.1)
    sigmoid = _all_at(subject, 0.1, "xavier")
    conditions = [
        Condition(CONVERGES, plain, steady),
        Condition(BN_CONVERGES, batch, steady),
        Condition("plain, lr 0.5", plain, _all_at(subject, 0.5)),
        *_around(subject, largest),
        Condition("plain with noise, lr 0.1", plain.with_norm("none+noise"), steady),
        Condition("BN with noise, lr 0.1", plain.with_norm("batch+noise"), steady),
        Condition("plain sigmoid, lr 0.1", plain.with_options(activation="sigmoid"), sigmoid),
        Condition("BN sigmoid, lr 0.1", batch.with_options(activation="sigmoid"), sigmoid),
    ]
    return conditions, [run.key for run in runs]


def users(subject: Subject) -> Conditions:
    """Return the conditions of a user's network; its largest rates are searched as larger-lr does."""
    largest, runs = yield from descend(subject)
    conditions = [
        Condition(
            say("{arm}, lr {rate:g}", arm=name, rate=lr),
            subject.network.with_norm(norm),
            _all_at(subject, lr),
        )
        for name, norm in (("plain", "none"), ("BN", "batch"))
        for lr in (0.1, 0.5, 5.0)
    ]
    return [*conditions, *_around(subject, largest)], [run.key for run in runs]


def _around(subject: Subject, largest: Largest) -> list[Condition]:
    """Return the conditions at the largest rate that trains and above it.

    One step is a factor of two, also beyond the grid's end; where no rate trains it starts from the lowest.
    """

    def each_at(norm: str, above: int) -> tuple[Member, ...]:
        lowest = RATES[0]
        return tuple(
            Member(seed, (lowest if rate is None else rate) * 2**above, subject.init)
            for seed, rate in enumerate(largest[norm])
        )

    plain, batch = subject.network.with_norm("none"), subject.network.with_norm("batch")
    return [
        Condition(EDGE, plain, each_at("none", 0)),
        Condition(ABOVE, plain, each_at("none", 1)),
        Condition(BN_ABOVE, batch, each_at("batch", 1)),
    ]


def _all_at(subject: Subject, lr: float, init: str | None = None) -> tuple[Member, ...]:
    return tuple(Member(seed, lr, init or subject.init) for seed in range(subject.seeds))


def watched(subject: Subject) -> Watched:
    """Return where an early, a middle and a late layer of our network are watched.

    A block is linear, norm, activation: what leaves the norm of one is what enters the next, activated.
    """
    depth = int(dict(subject.network.options)["depth"])
    places = sorted({1, depth // 2, depth - 1})
    return {
        "before normalisation": tuple((f"hidden.{place - 1}.1", "input") for place in places),
        "after normalisation": tuple((f"hidden.{place - 1}.1", "output") for place in places),
        "at the next layer's input": tuple((f"hidden.{place}.0", "input") for place in places),
    }
