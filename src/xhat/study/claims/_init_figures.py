"""Accuracy against the scale of the initial weights: the figure, the tables and the sentences."""

import numpy as np

from xhat.lang import listed, say
from xhat.study.claim import Subject
from xhat.study.claims._best import best_rate
from xhat.study.claims._init_sweep import CORE, Floats, Sweep, Sweeps
from xhat.study.claims._search_box import Box, Trained
from xhat.study.curves import ARM_NAMES, mean_curve
from xhat.study.result import Axis, Curve, Figure, Panel, Table
from xhat.study.verdict import interval


def scales_figure(fixed: Sweeps, own: Sweeps, kept: Sweeps, subject: Subject) -> Figure:
    """Draw every arm over the scales: rate fixed, with the output layer at scale 1 too, and own rates."""
    axis = Axis("initial weights multiplied by", log=True)
    y = Axis("test accuracy (%)")
    panels = [Panel("Learning rate fixed", axis, y, (*_curves(fixed), *_dashed(kept)))]
    caption = [
        say(
            "Mean over {seeds} seeds; bands: 95% intervals. Scale 1 is the usual initialisation.",
            seeds=subject.seeds,
        )
    ]
    if kept:
        panels.append(Panel("Each scale at its own best rate", axis, y, _curves(own)))
        caption.append(say("Dashed: the output layer is left at scale 1."))
    return Figure(
        id="init-insensitive",
        title=say("Accuracy against the scale of the initial weights: {subject}", subject=subject.name),
        caption=listed(caption, " "),
        alt=say("Test accuracy against scale. {words}", words=listed(range_words(fixed, subject), " ")),
        panels=tuple(panels),
    )


def _curves(sweeps: Sweeps) -> tuple[Curve, ...]:
    return tuple(
        mean_curve(ARM_NAMES[norm], norm, swept.scales, list(swept.accuracy))
        for (norm, _), swept in sweeps.items()
    )


def _dashed(kept: Sweeps) -> tuple[Curve, ...]:
    curves = []
    for (norm, _), swept in kept.items():
        name = say("{arm}, output layer at scale 1", arm=ARM_NAMES[norm])
        curve = mean_curve(name, norm, swept.scales, list(swept.accuracy))
        curves.append(Curve(name, norm, curve.x, curve.y, curve.low, curve.high, dashed=True))
    return tuple(curves)


def rates_table(trained: Trained, box: Box) -> Table:
    """Return the table of the rate at which each arm is compared."""
    rows = tuple(
        (ARM_NAMES[arm[0]], best_rate(trained, arm, seeds=box.subject.seeds, rates=box.rates))
        for arm in box.arms
    )
    tried = listed([say("{rate:g}", rate=rate) for rate in box.rates], ", ")
    title = say("Learning rate of each arm, best at scale 1 of {rates}", rates=tried)
    return Table(title, ("arm", "learning rate"), rows)


def losses_table(fixed: Sweeps, kept: Sweeps) -> Table:
    """Return the table of what every core scale costs in every arm."""
    rows = []
    for arm, swept in fixed.items():
        left = kept[arm].losses() if arm in kept else {}
        for scale, points in swept.losses().items():
            row = (ARM_NAMES[arm[0]], scale, len(points), _points(points))
            rows.append((*row, _points(left[scale]) if left else "–") if kept else row)
    columns = ("arm", "scale", "seeds that train at scale 1", "all layers scaled")
    return Table(
        "Points of accuracy lost from scale 1: mean and 95% interval",
        (*columns, "output layer at scale 1") if kept else columns,
        tuple(rows),
    )


def _points(values: Floats) -> str:
    if not len(values):
        return "–"
    mean, low, high = interval(list(values))
    return say("{mean:.1f} [{low:.1f}, {high:.1f}]", mean=mean, low=low, high=high)


def range_words(fixed: Sweeps, subject: Subject) -> tuple[str, ...]:
    """Say of each arm how good it is and over which scales it works."""
    sentences = []
    for (norm, _), swept in fixed.items():
        most = [s for s, works in zip(swept.scales, swept.workable.mean(axis=0), strict=True) if works > 0.5]
        where = "workable for most seeds at no scale"
        if most:
            where = say(
                "workable for most seeds from scale {low:g} to {high:g}", low=min(most), high=max(most)
            )
        sentences.append(
            say(
                "{subject}, {arm}: best mean accuracy {best:.0f}%, {where} (mean of the seeds' ranges: "
                "{range:.1f} decades).",
                subject=subject.name,
                arm=ARM_NAMES[norm],
                best=float(swept.accuracy.mean(axis=0).max()),
                where=where,
                range=float(swept.range.mean()),
            )
        )
    return tuple(sentences)


def kept_words(fixed: Sweeps, kept: Sweeps, subject: Subject) -> tuple[str, ...]:
    """Say of each arm what remains of the loss where the output layer is left at scale 1."""
    return tuple(_remains(ARM_NAMES[arm[0]], fixed[arm], swept, subject.name) for arm, swept in kept.items())


def _remains(arm: str, swept: Sweep, kept: Sweep, subject: str) -> str:
    known = {"subject": subject, "arm": arm}
    losses = swept.losses()
    if not len(next(iter(losses.values()))):
        return say("{subject}, {arm}: no seed trains at scale 1, so that no loss is compared.", **known)
    scale = max(losses, key=lambda at: float(losses[at].mean()))
    lost, left = (float(np.mean(points[scale])) for points in (losses, kept.losses()))
    words = say(
        "{subject}, {arm}: from scale 1 to {scale:g}, of {low:g} to {high:g} the scale that costs most, accuracy "
        "falls by {lost:.1f} points where all layers are scaled and by {left:.1f} where the output layer is left at "
        "scale 1",
        scale=scale,
        low=CORE[0],
        high=CORE[1],
        lost=lost,
        left=left,
        **known,
    )
    if interval(list(losses[scale]))[1] <= 0:  # nothing surely lost: a part of it says nothing
        return say("{words}.", words=words)
    return say("{words}: {part:.0%} of the loss remains.", words=words, part=max(0.0, left / lost))
