"""What the claim "limits-batch" compares and shows: accuracy against the size of the batch, sentences."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from xhat.lang import listed, say
from xhat.study.claim import Subject
from xhat.study.claims._arms import NAMES, trained
from xhat.study.claims._tuned import Tuned
from xhat.study.curves import mean_curve
from xhat.study.result import Axis, Figure, Panel

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One network at every size of the batch."""

    subject: Subject  # with its usual batch size
    other: str  # what BN is held against
    arms: Mapping[int, Mapping[str, Tuned]]  # by batch size, ascending

    @property
    def usual(self) -> int:
        """The usual size of the batch."""
        return max(self.arms)

    @property
    def small(self) -> int:
        """The smallest."""
        return min(self.arms)

    @property
    def smaller(self) -> tuple[int, ...]:
        """All but the usual, from large to small."""
        return tuple(sorted(self.arms, reverse=True)[1:])

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """The seeds of which both arms train at the usual size."""
        usual = self.arms[self.usual]
        return trained(usual["batch"]) & trained(usual[self.other])

    def lead(
        self, arms: Mapping[str, Tuned], accuracy: Callable[[Tuned], Floats] = attrgetter("accuracy")
    ) -> Floats:
        """Return BN's test accuracy less the other's, one a seed."""
        return accuracy(arms["batch"]) - accuracy(arms[self.other])

    def lost(self, size: int) -> Floats:
        """Return what the lead falls by from the usual size to this one, one for every seed that is kept."""
        return (self.lead(self.arms[self.usual]) - self.lead(self.arms[size]))[self.kept]


def figure(cases: list[Case]) -> Figure:
    """Show test accuracy against the size of the batch, a panel a network."""
    panels = []
    for case in cases:
        sizes = tuple(float(size) for size in case.arms)
        curves = [
            replace(
                mean_curve(
                    NAMES[arm],
                    arm,
                    sizes,
                    list(np.stack([arms[arm].accuracy for arms in case.arms.values()], axis=1)),
                ),
                mode="lines+markers",
            )
            for arm in case.arms[case.usual]
        ]
        x = Axis("samples in a batch", log=True)
        panels.append(Panel(case.subject.name, x, Axis("test accuracy (%)"), tuple(curves)))
    return Figure(
        id="limits-batch",
        title="Test accuracy against the size of the batch, each arm at its own best learning rate",
        caption=(
            "Mean over seeds; bands: 95% intervals. All sizes train for the same number of steps, so that "
            "all arms fall to the left; what counts is which falls more."
        ),
        alt=listed([words(case) for case in cases], " "),
        panels=tuple(panels),
    )


def words(case: Case) -> str:
    """Say what BN's lead falls by, size by size, and all accuracies."""
    parts = [
        say(
            "{size} samples: {arms}",
            size=size,
            arms=listed(
                [
                    say("{arm} {accuracy:.1f}%", arm=NAMES[arm], accuracy=float(np.mean(found.accuracy)))
                    for arm, found in arms.items()
                ],
                ", ",
            ),
        )
        for size, arms in case.arms.items()
    ]
    accuracies = say(
        "{network}, mean test accuracy by size of the batch. {parts}.",
        network=case.subject.name,
        parts=listed(parts, "; "),
    )
    return listed([*_lost_words(case), *_nothing_left(case), accuracies], " ")


def _lost_words(case: Case) -> list[str]:
    if not case.kept.any():
        return []
    parts = [
        say("{points:+.1f} points at {size}", points=0.0 - float(case.lost(size).mean()), size=size)
        for size in case.smaller
    ]
    return [
        say(
            "{network}: BN's lead over {other}, against that at {usual} samples a batch: {parts}.",
            network=case.subject.name,
            other=NAMES[case.other],
            usual=case.usual,
            parts=listed(parts, ", "),
        )
    ]


def _nothing_left(case: Case) -> list[str]:
    """Say where BN lets no gradient through; of the VGG only where its last maps are known to be 1×1."""
    data = case.subject.data
    if case.small != 2:
        return []
    if case.subject.network.name == "mlp":
        return [
            "With 2 samples a unit has m = 2 values, of which BN's backward pass leaves m − 2 = 0 directions: "
            "but for ε the layers below cannot train."
        ]
    if case.subject.network.name == "vgg" and data.name == "fashion-mnist" and data.pool == 2:
        return [
            "With 2 samples the last two layers, whose maps are 1×1, have m = 2 values a channel, of which BN's "
            "backward pass leaves m − 2 = 0 directions: but for ε the layers below cannot train."
        ]
    return []
