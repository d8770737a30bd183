"""What the claim "faster" shows: accuracy over training, a table and sentences."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from xhat.lang import listed, say
from xhat.study.claim import Subject
from xhat.study.claims._speed import BELOW, Floats, best, steps_of
from xhat.study.claims._tuned import Tuned, accuracy_curve, evaluated
from xhat.study.curves import ARM_NAMES, mean_curve
from xhat.study.result import Axis, Curve, Figure, Panel, Table


def figure(pairs: Sequence[tuple[Subject, Mapping[str, Tuned]]]) -> Figure:
    panels = []
    for subject, arms in pairs:
        at = evaluated(subject.steps)
        curves = [
            mean_curve(ARM_NAMES[arm], arm, at, [accuracy_curve(outcome) for outcome in tuned_.outcomes])
            for arm, tuned_ in arms.items()
        ]
        target = float(np.mean([best(plain) for plain in arms["none"].outcomes])) - BELOW
        ends = (float(at[0]), float(at[-1]))
        curves.append(Curve("target", "target", ends, (target, target), dashed=True))
        panels.append(
            Panel(subject.name, Axis("training step", log=True), Axis("test accuracy (%)"), tuple(curves))
        )
    return Figure(
        id="faster",
        title="Test accuracy over training, each arm at its own best learning rate",
        caption=say(
            "Mean over seeds; bands: 95% intervals. Dashed: the target, the plain network's best accuracy "
            "less {below:g} point, mean over seeds. Steps are on a logarithmic axis: half as many steps are "
            "the same way to the left everywhere.",
            below=BELOW,
        ),
        alt=listed([_reached(subject, arms) for subject, arms in pairs], " "),
        panels=tuple(panels),
    )


def table(subject: Subject, arms: Mapping[str, Tuned]) -> Table:
    rows = []
    for arm, tuned_ in arms.items():
        steps = steps_of(arms, arm)
        milliseconds = [1000 * outcome.training_seconds / subject.steps for outcome in tuned_.outcomes]
        rows.append(
            (
                ARM_NAMES[arm],
                say("{rate:g}, at the grid's end", rate=tuned_.rate) if tuned_.at_edge else tuned_.rate,
                sum(outcome.trains for outcome in tuned_.outcomes),
                _median(steps),
                float(np.mean([best(outcome) for outcome in tuned_.outcomes])),
                float(np.median(milliseconds)),
            )
        )
    return Table(
        say("{network}: each arm at its best rate", network=subject.name),
        (
            "arm",
            "best rate",
            "seeds that train",
            "steps to the target, median",
            "best test accuracy (%), mean",
            "milliseconds a step",
        ),
        tuple(rows),
    )


def _median(steps: Floats) -> str | float:
    # An even number of seeds, half of which never reach it: inf is neither a number nor a median.
    middle = float(np.sort(steps)[len(steps) // 2])
    return middle if math.isfinite(middle) else "never"


def _reached(subject: Subject, arms: Mapping[str, Tuned]) -> str:
    parts = []
    for arm in arms:
        middle = _median(steps_of(arms, arm))
        if isinstance(middle, float):
            parts.append(say("{arm} after {steps:.0f}", arm=ARM_NAMES[arm], steps=middle))
        else:
            parts.append(say("{arm} not in most seeds", arm=ARM_NAMES[arm]))
    return say(
        "{network}, steps to the plain network's best accuracy less {below:g} point, median over seeds: {parts}.",
        network=subject.name,
        below=BELOW,
        parts=listed(parts, ", "),
    )


def words(subject: Subject, arms: Mapping[str, Tuned]) -> tuple[str, ...]:
    parts = [
        say(
            "{arm} {accuracy:.1f}% at rate {rate:g}",
            arm=ARM_NAMES[arm],
            accuracy=float(np.mean([best(outcome) for outcome in tuned_.outcomes])),
            rate=tuned_.rate,
        )
        for arm, tuned_ in arms.items()
    ]
    return (
        _reached(subject, arms),
        say(
            "{network}, best test accuracy, mean over seeds: {parts}.",
            network=subject.name,
            parts=listed(parts, ", "),
        ),
    )
