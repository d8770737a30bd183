"""What enters the activations with and without γ and β: figures, the table and the sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xhat.lang import listed, say
from xhat.study.claim import Subject
from xhat.study.claims._tuned import Tuned
from xhat.study.curves import mean_curve
from xhat.study.measures.linear_part import LEVELS
from xhat.study.outcome import Outcome
from xhat.study.result import Axis, Curve, Figure, Panel, Table

BOUNDS = {"sigmoid": 0.80, "tanh": 0.40}  # |z| up to which the activation is within 5% of its tangent at 0
ARMS = {
    "batch": "batch norm with γ, β",
    "bare": "batch norm without γ, β",
    "none": "no normalisation",
}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One activation and depth."""

    activation: str
    depth: int
    subject: Subject
    arms: Mapping[str, Tuned]
    keys: tuple[str, ...]

    def trained(self, *arms: str) -> list[tuple[Outcome, ...]]:
        """Return the seeds at which all of ``arms`` train, an outcome for each."""
        rows = zip(*(self.arms[arm].outcomes for arm in arms), strict=True)
        return [row for row in rows if all(outcome.trains for outcome in row)]


def share(outcome: Outcome) -> float:
    """Return the share in the linear part at the end, in per cent, the mean over layers."""
    return 100 * float(outcome.measured("linear_part", "share")[-1].mean())


def inputs_figure(cases: Sequence[Case], words: Sequence[str]) -> Figure:
    """Draw how far from 0 the values lie that enter the activations, for cases of one depth."""
    y = Axis("share of values with |z| up to there (%)")
    return Figure(
        id="gamma-beta-needed",
        title=say("What enters the activations after training, {depth} hidden layers", depth=cases[0].depth),
        caption=say(
            "Cumulative share of the values in front of the activation by their distance from 0, mean over "
            "layers and over the seeds of {seeds} that train; bands: 95% intervals. Left of the dashed line the "
            "activation is within 5% of its tangent at 0: where a curve meets the line is the share in the "
            "linear part.",
            seeds=cases[0].subject.seeds,
        ),
        alt=say("Cumulative distributions of |z| by arm. {words}", words=listed(words, " ")),
        panels=tuple(
            Panel(case.activation, Axis("|z|, z in front of the activation"), y, _cumulative(case))
            for case in cases
        ),
    )


def _cumulative(case: Case) -> tuple[Curve, ...]:
    x = np.linspace(0.0, 4.0, 41)
    curves = []
    for arm, name in ARMS.items():
        rows = [
            np.mean([_up_to(x, layer) for layer in outcome.measured("linear_part", "quantile")[-1]], axis=0)
            for (outcome,) in case.trained(arm)
        ]
        if rows:
            curves.append(mean_curve(name, arm, x, rows))
    bound = BOUNDS[case.activation]
    line = Curve("end of the linear part", "linear", (bound, bound), (0.0, 100.0), dashed=True)
    return (*curves, line)


def _up_to(x: Floats, quantiles: Floats) -> Floats:
    """Return the share of values, in per cent, whose distance from 0 is at most x."""
    above, below = (np.interp(ends, quantiles, LEVELS, left=0.0, right=1.0) for ends in (x, -x))
    return np.asarray(100 * (above - below))


def accuracy_figure(cases: Sequence[Case]) -> Figure:
    """Draw test accuracy by depth for each activation."""
    panels = []
    for activation in dict.fromkeys(case.activation for case in cases):
        own = [case for case in cases if case.activation == activation]
        curves = tuple(
            mean_curve(
                name,
                arm,
                [case.depth for case in own],
                list(np.stack([case.arms[arm].accuracy for case in own], axis=1)),
            )
            for arm, name in ARMS.items()
        )
        panels.append(Panel(activation, Axis("hidden layers"), Axis("test accuracy (%)"), curves))
    return Figure(
        id="gamma-beta-needed-accuracy",
        title="Accuracy with and without γ and β",
        caption=say(
            "Mean test accuracy over all {seeds} seeds, whether they train or not, at each arm's best learning "
            "rate; bands: 95% intervals.",
            seeds=cases[0].subject.seeds,
        ),
        alt=say(
            "Test accuracy by depth and arm. {words}", words=listed([case_words(case) for case in cases], " ")
        ),
        panels=tuple(panels),
    )


def cases_table(cases: Sequence[Case]) -> Table:
    """Return the table of every arm at its best rate."""
    rows = []
    for case in cases:
        for arm, name in ARMS.items():
            trained = [share(outcome) for (outcome,) in case.trained(arm)]
            rows.append(
                (
                    case.activation,
                    case.depth,
                    name,
                    case.arms[arm].rate,
                    float(case.arms[arm].accuracy.mean()),
                    say("{count} of {total}", count=len(trained), total=case.subject.seeds),
                    float(np.mean(trained)) if trained else float("nan"),
                )
            )
    columns = (
        "activation",
        "hidden layers",
        "arm",
        "best rate",
        "test accuracy, all seeds (%)",
        "seeds that train",
        "in the linear part at the end (%)",
    )
    return Table("Each arm at its best rate", columns, tuple(rows))


def case_words(case: Case) -> str:
    """Say how good the seeds of each arm are that train, and what they hold in the linear part."""
    parts = []
    for arm, name in ARMS.items():
        trained = [outcome for (outcome,) in case.trained(arm)]
        if not trained:
            parts.append(say("{arm}: no seed trains", arm=name))
            continue
        part = say(
            "{arm} {accuracy:.1f}% and {share:.0f}%",
            arm=name,
            accuracy=100 * float(np.mean([outcome.test_accuracy for outcome in trained])),
            share=float(np.mean([share(outcome) for outcome in trained])),
        )
        if len(trained) < case.subject.seeds:
            part = say(
                "{part} ({count} of {total} seeds train)",
                part=part,
                count=len(trained),
                total=case.subject.seeds,
            )
        parts.append(part)
    return say(
        "{activation}, {depth} hidden layers, mean test accuracy and share in the linear part at the end, of the "
        "seeds that train: {parts}.",
        activation=case.activation,
        depth=case.depth,
        parts=listed(parts, "; "),
    )
