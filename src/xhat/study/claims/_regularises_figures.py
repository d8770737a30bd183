"""What the claim "regularises" shows: accuracy against training loss, accuracy against dropout, sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from xhat.lang import listed, say
from xhat.study.claim import Subject
from xhat.study.claims._arms import NAMES, trained
from xhat.study.claims._equal_loss import at_loss, common_loss, path
from xhat.study.claims._tuned import Tuned
from xhat.study.curves import mean_curve
from xhat.study.result import Axis, Curve, Figure, Panel

SHOWN = ("none", "batch", "layer", "ghost8")  # against training loss; more would hide one another
POINTS = 25


def with_dropout(norm: str, share: float) -> str:
    """Return the key of the arm with this normalisation and this share of dropout."""
    return f"{norm} {share:g}" if share else norm


def figure(subject: Subject, arms: Mapping[str, Tuned], shares: Sequence[float]) -> Figure:
    """Show test accuracy against training loss and, for our network, against dropout."""
    curves = [_curve(arm, arms[arm]) for arm in SHOWN if arm in arms and trained(arms[arm]).any()]
    x = Axis("training loss (cross-entropy)", log=True)
    panels = [Panel("At equal training loss", x, Axis("test accuracy (%)"), tuple(curves))]
    caption = (
        "Left: mean test accuracy where a network's training loss first comes down to a value, both in "
        "evaluation mode, from half of chance's loss on; training goes from right to left, and a curve ends "
        "where not all seeds go on. "
    )
    if not subject.is_users:
        panels.append(_dropout_panel(arms, shares))
        caption += "Right: final test accuracy against the share of units dropped. "
    return Figure(
        id="regularises",
        title=say("{network} on few training samples", network=subject.name),
        caption=caption + "Means over seeds; bands: 95% intervals.",
        alt=listed(words(subject, arms, shares), " "),
        panels=tuple(panels),
    )


def _curve(arm: str, found: Tuned) -> Curve:
    paths = [path(outcome) for outcome in found.outcomes if outcome.trains]
    # A network that trains comes below half of chance's loss, and what is before it would hide the rest.
    first = min(float(one.train_loss[0]) for one in paths)
    first = min(first, float(found.outcomes[0].run.arrays["chance"][0]) / 2)
    targets = np.geomspace(first, min(first, common_loss(paths)), POINTS)
    rows = [np.array([at_loss(one.train_loss, one.accuracy, t) for t in targets]) for one in paths]
    return mean_curve(NAMES[arm], arm, targets, rows)


def _dropout_panel(arms: Mapping[str, Tuned], shares: Sequence[float]) -> Panel:
    curves = []
    for norm in ("none", "batch"):
        keys = [with_dropout(norm, share) for share in shares]
        columns = np.stack([arms[key].accuracy for key in keys], axis=1)
        curves.append(replace(mean_curve(NAMES[norm], norm, shares, list(columns)), mode="lines+markers"))
    return Panel("With dropout", Axis("share of units dropped"), Axis("test accuracy (%)"), tuple(curves))


def words(subject: Subject, arms: Mapping[str, Tuned], shares: Sequence[float]) -> tuple[str, ...]:
    """Say what was reached at equal training loss, and with dropout."""
    sentences = [_equal_words(subject, arms)]
    if not subject.is_users:
        parts = [
            say(
                "{arm} {values}",
                arm=NAMES[norm],
                values=listed(
                    [
                        say(
                            "{accuracy:.1f}% at {share:g}",
                            accuracy=float(arms[with_dropout(norm, share)].accuracy.mean()),
                            share=share,
                        )
                        for share in shares
                    ],
                    ", ",
                ),
            )
            for norm in ("none", "batch")
        ]
        sentences.append(
            say(
                "{network}, final test accuracy by the share of units that dropout drops: {parts}.",
                network=subject.name,
                parts=listed(parts, "; "),
            )
        )
    return tuple(sentences)


def _equal_words(subject: Subject, arms: Mapping[str, Tuned]) -> str:
    both = np.flatnonzero(trained(arms["batch"]) & trained(arms["none"]))
    if not len(both):
        return say("{network}: no seed trains both with and without BN.", network=subject.name)
    losses, accuracy = [], []
    for seed in both:
        paths = [path(arms[arm].outcomes[seed]) for arm in ("none", "batch")]
        losses.append(common_loss(paths))
        accuracy.append([at_loss(one.train_loss, one.accuracy, losses[-1]) for one in paths])
    none, batch = np.mean(accuracy, axis=0)
    return say(
        "{network}, where both arms have the same training loss ({loss:.2g}, median over {count} seeds): mean "
        "test accuracy {none:.1f}% without BN, {batch:.1f}% with it.",
        network=subject.name,
        loss=float(np.median(losses)),
        count=len(both),
        none=float(none),
        batch=float(batch),
    )
