"""What a claim is to the study: words, and a measurement that asks for runs and judges them."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TypeVar

from xhat.study.result import ClaimResult, ClaimText
from xhat.study.spec import Data, Network, TrainSpec
from xhat.study.store import Run

T = TypeVar("T")

DEFAULT_DATA = "fashion-mnist"
PRESETS = ("smoke", "quick", "full", "paper")


@dataclass(frozen=True)
class Subject:
    """A network on data, and the budget of one training."""

    name: str  # as the report shows it
    network: Network  # its normalisation is replaced arm by arm
    data: Data
    seeds: int
    steps: int
    batch_size: int
    init: str = "he"

    @property
    def is_users(self) -> bool:
        """Whether the network is the user's own."""
        return ":" in self.network.name


@dataclass(frozen=True)
class Context:
    """What a claim is measured on."""

    preset: str
    user: Subject | None = None
    data: str | None = None  # in place of Fashion-MNIST, or in ``paper`` of CIFAR-10, for our own networks
    seeds: int | None = None  # in place of the preset's
    steps: int | None = None  # in place of the preset's

    def subject(self, subject: Subject) -> Subject:
        """Return ``subject`` with the data, the seeds and the steps that were asked for."""
        replaced = ("cifar10",) if self.preset == "paper" else (DEFAULT_DATA, "cifar10")
        if self.data is not None and subject.data.name in replaced:
            subject = replace(subject, data=replace(subject.data, name=self.data))
        return replace(subject, seeds=self.seeds or subject.seeds, steps=self.steps or subject.steps)

    def subjects(self, *defaults: Subject) -> tuple[Subject, ...]:
        """Return the user's network alone if there is one, else the claim's own."""
        if self.user is not None:
            return (self.subject(self.user),)
        return tuple(self.subject(subject) for subject in defaults)


# A measurement yields the runs it needs, is sent them done, may ask for more, and returns its result.
Measurement = Generator[Sequence[TrainSpec], Sequence[Run], ClaimResult]


def together(
    *parts: Generator[Sequence[TrainSpec], Sequence[Run], T],
) -> Generator[Sequence[TrainSpec], Sequence[Run], tuple[T, ...]]:
    """Let several measurements ask at the same time; return what each returns."""
    results: dict[int, T] = {}
    asked: dict[int, Sequence[TrainSpec]] = {}

    def step(place: int, advance: Callable[[], Sequence[TrainSpec]]) -> None:
        try:
            asked[place] = advance()
        except StopIteration as stop:
            results[place] = stop.value

    for place, part in enumerate(parts):
        step(place, partial(next, part))
    while asked:
        now, asked = asked, {}
        runs = iter((yield [spec for specs in now.values() for spec in specs]))
        for place, specs in now.items():
            step(place, partial(parts[place].send, list(islice(runs, len(specs)))))
    return tuple(results[place] for place in range(len(parts)))


@dataclass(frozen=True)
class Claim:
    """A claim of the notes."""

    text: ClaimText
    measure: Callable[[Context], Measurement]
    takes_networks: bool  # whether a user's network can be its subject
