"""What the claim "where-to-normalise" shows: accuracy over training, one layer's descent, tables, words."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from xhat.lang import listed, say
from xhat.study.claim import Subject
from xhat.study.claims._layer_step import BEHIND, LAYERS, Stepped
from xhat.study.claims._tuned import Tuned, accuracy_curve, evaluated
from xhat.study.curves import mean_curve
from xhat.study.result import Axis, Figure, Panel, Table

NAMES = {
    "raw": "raw inputs",
    "none": "inputs standardised as a whole",
    "batch": "batch norm on Z",
    "post": "batch norm on a",
}


def accuracy_figure(pairs: Sequence[tuple[Subject, Mapping[str, Tuned]]]) -> Figure:
    panels = []
    for subject, arms in pairs:
        curves = tuple(
            mean_curve(NAMES[arm], arm, evaluated(subject.steps), [accuracy_curve(o) for o in found.outcomes])
            for arm, found in arms.items()
        )
        panels.append(Panel(subject.name, Axis("training step", log=True), Axis("test accuracy (%)"), curves))
    return Figure(
        id="where-to-normalise",
        title="Test accuracy over training by what is normalised, each arm at its own best learning rate",
        caption=(
            "Mean over seeds; bands: 95% intervals. Raw inputs are pixels in [0, 1]; standardised as a whole, all "
            "pixels are moved and scaled by the same two numbers, with batch norm too."
        ),
        alt=listed([accuracy_words(subject, arms) for subject, arms in pairs], " "),
        panels=tuple(panels),
    )


def accuracy_words(subject: Subject, arms: Mapping[str, Tuned]) -> str:
    parts = [
        say(
            "{arm} {accuracy:.1f}% at rate {rate:g}",
            arm=NAMES[arm],
            accuracy=float(found.accuracy.mean()),
            rate=found.rate,
        )
        for arm, found in arms.items()
    ]
    return say(
        "{network}, test accuracy at the end, mean over seeds: {parts}.",
        network=subject.name,
        parts=listed(parts, ", "),
    )


def step_figure(after: Stepped) -> Figure:
    layers = tuple(float(layer + 1) for layer in LAYERS)
    panels = []
    for place, step in enumerate(after.at):
        curves = []
        for arm, name in BEHIND.items():
            rows = 100 * after.decrease(arm)[:, place]
            if len(rows):
                curves.append(replace(mean_curve(name, arm, layers, list(rows)), mode="lines+markers"))
        panels.append(
            Panel(
                say("After {step} training steps", step=step),
                Axis("hidden layer l that is normalised"),
                Axis("fall of the loss (%)"),
                tuple(curves),
            )
        )
    return Figure(
        id="where-to-normalise-next-layer",
        title="Ten steps of gradient descent on W and b of layer l + 1 alone",
        caption=(
            "How far the loss falls on one batch, in per cent of itself, at the best rate of a grid for each "
            "network. Batch norm stands at layer l alone. Mean over the seeds that train in every network; "
            "bands: 95% intervals."
        ),
        alt=step_words(after),
        panels=tuple(panels),
    )


def step_table(after: Stepped) -> Table:
    rows = []
    for place, step in enumerate(after.at):
        for column, layer in enumerate(LAYERS):
            falls = [100 * after.decrease(arm)[:, place, column] for arm in BEHIND]
            rows.append((step, layer + 1, *(float(fall.mean()) if len(fall) else np.nan for fall in falls)))
    return Table(
        "Fall of the loss (%) by ten steps of layer l + 1 alone, mean over seeds",
        ("training step", "layer l", *BEHIND.values()),
        tuple(rows),
    )


def step_words(after: Stepped) -> str:
    if not after.seeds:
        return say("One layer alone: no seed trains in every network.")
    parts = []
    for arm, name in BEHIND.items():
        fall = 100 * after.decrease(arm)
        start, later = float(fall[:, 0].mean()), float(fall[:, 1:].mean())
        parts.append(say("{arm} {start:.0f}%, {later:.0f}%", arm=name, start=start, later=later))
    return say(
        "The loss falls by ten steps of layer l + 1 alone, mean over layers and seeds, at the start and "
        "later in training: {parts}.",
        parts=listed(parts),
    )
