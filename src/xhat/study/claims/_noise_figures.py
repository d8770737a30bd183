"""What the claim "limits-noise" shows: training losses and drift over steps, a table, sentences."""

from collections.abc import Mapping, Sequence

import numpy as np

from xhat.lang import listed, say
from xhat.study.claim import Subject
from xhat.study.claims._arms import recalibrated
from xhat.study.claims._drift import Movement
from xhat.study.claims._tuned import Tuned
from xhat.study.curves import ARM_NAMES, mean_curve, spaced
from xhat.study.result import Axis, Curve, Figure, Panel, Table

NOISY = "batch+noise"
ARMS = ("none", "batch", NOISY)
NAMES = {**ARM_NAMES, NOISY: "batch norm with noise"}
RECORDS = 30  # of the layers' inputs over the training
FLOOR = 0.27  # standard deviations a record by which noise alone makes the untrained MLP drift
BLOCKS = 40  # of steps, over which the loss is averaged to be drawn

Arms = Mapping[str, Tuned]
Drift = Mapping[str, Sequence[Movement]]


def mean_drift(movement: Movement) -> float:
    """Return the drift of the layers' inputs, mean over layers and training; NaN of a run given up."""
    return float(movement.drift(movement.inputs).mean()) if movement.complete else np.nan


def figure(seen: Sequence[tuple[Subject, Arms, Drift]]) -> Figure:
    """Draw the training loss of every network, and the drift where it was recorded."""
    panels = [_losses(subject, arms) for subject, arms, _ in seen]
    panels += [_drifts(subject, drift) for subject, _, drift in seen if drift]
    return Figure(
        id="limits-noise",
        title="Training with unstable distributions, each arm at its own best learning rate",
        caption=listed([LOSS, *(_spacing(subject) for subject, _, drift in seen if drift), BANDS], " "),
        alt=listed([sentence for each in seen for sentence in words(*each)], " "),
        panels=tuple(panels),
    )


LOSS = "Loss: mean over blocks of steps and over seeds (geometric), as it is trained, noise included."
BANDS = "Bands: 95% intervals."


def _spacing(subject: Subject) -> str:
    return say(
        "Drift: distance between neighbouring records of the distribution at a layer's input, in standard "
        "deviations, one every {spacing:.3g} steps; geometric mean over seeds. Dashed: what the noise, drawn "
        "anew for each record, makes of it already in an untrained network whose weights stand still "
        "(about {floor:g}).",
        spacing=(subject.steps - 1) / (len(spaced(subject.steps, RECORDS)) - 1),
        floor=FLOOR,
    )


def _losses(subject: Subject, arms: Arms) -> Panel:
    blocks = np.array_split(np.arange(subject.steps), min(BLOCKS, subject.steps))
    middle = [float(block.mean()) for block in blocks]
    curves = [
        mean_curve(
            NAMES[arm],
            arm,
            middle,
            [np.array([outcome.loss[block].mean() for block in blocks]) for outcome in arms[arm].outcomes],
            log=True,
        )
        for arm in ARMS
    ]
    return Panel(
        say("{network}: loss", network=subject.name),
        Axis("training step"),
        Axis("training loss (cross-entropy)", log=True),
        tuple(curves),
    )


def _drifts(subject: Subject, drift: Drift) -> Panel:
    curves = []
    for arm in ARMS:
        rows = [m for m in drift[arm] if m.complete]
        if rows:
            x = rows[0].steps[1:]
            curves.append(mean_curve(NAMES[arm], arm, x, [m.drift(m.inputs) for m in rows], log=True))
    ends = (0.0, float(subject.steps))
    curves.append(Curve("noise alone", "floor", ends, (FLOOR, FLOOR), dashed=True))
    return Panel(
        say("{network}: drift of the layers' inputs", network=subject.name),
        Axis("training step"),
        Axis("W1 between records (std)", log=True),
        tuple(curves),
    )


def table(subject: Subject, arms: Arms, drift: Drift) -> Table:
    """Return rate, accuracy and drift by arm."""
    rows = [
        (
            NAMES[arm],
            arms[arm].rate,
            sum(outcome.trains for outcome in arms[arm].outcomes),
            float(np.mean([outcome.final_loss for outcome in arms[arm].outcomes])),
            float(recalibrated(arms[arm]).mean()),
            float(arms[arm].accuracy.mean()),
            _mean_drift(drift, arm),
        )
        for arm in ARMS
    ]
    return Table(
        say("{network}: each arm at its best rate", network=subject.name),
        (
            "arm",
            "best rate",
            "seeds that train",
            "final training loss, noise included",
            "test accuracy (%)",
            "with the training's running statistics (%)",
            "drift (std a record)",
        ),
        tuple(rows),
    )


def _mean_drift(drift: Drift, arm: str) -> float | str:
    found = [mean_drift(m) for m in drift.get(arm, ())]
    finite = [value for value in found if np.isfinite(value)]
    return float(np.mean(finite)) if finite else "not recorded"


def words(subject: Subject, arms: Arms, drift: Drift) -> tuple[str, ...]:
    """Say accuracies, and drifts where there are any."""
    parts = [
        say("{arm} {value:.1f}%", arm=NAMES[arm], value=float(recalibrated(arms[arm]).mean())) for arm in ARMS
    ]
    sentences = [
        say("{network}, mean test accuracy: {parts}.", network=subject.name, parts=listed(parts, ", "))
    ]
    moved = [
        say("{arm} {value:.2g}", arm=NAMES[arm], value=value)
        for arm in ARMS
        if isinstance(value := _mean_drift(drift, arm), float)
    ]
    if moved:
        sentences.append(
            say(
                "{network}, mean drift of the layers' inputs between records, in standard deviations: {parts}.",
                network=subject.name,
                parts=listed(moved, ", "),
            )
        )
    return tuple(sentences)
