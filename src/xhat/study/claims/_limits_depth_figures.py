"""What the claim "limits-depth" shows: gradients by layer, accuracy by depth, a table and sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from xhat.lang import listed, say
from xhat.study.claim import Subject
from xhat.study.claims._arms import NAMES, trained
from xhat.study.claims._growth import RELU, Floats, growth, hidden_gradients
from xhat.study.claims._tuned import Tuned
from xhat.study.curves import mean_curve
from xhat.study.outcome import Outcome
from xhat.study.result import Axis, Curve, Figure, Panel, Table

Wide = Mapping[tuple[str, str], Sequence[Outcome]]


def _factors(wide: Wide, activation: str, norm: str) -> Floats:
    return np.array([growth(hidden_gradients(outcome)) for outcome in wide[activation, norm]])


def gradient_figure(wide: Wide, subject: Subject) -> Figure:
    """Show gradient norms layer by layer, one panel an activation, and the theory beside BN with ReLU."""
    panels = []
    for activation in dict.fromkeys(activation for activation, _ in wide):
        curves = []
        for (kind, norm), found in wide.items():
            if kind != activation:
                continue
            norms = np.array([hidden_gradients(outcome) for outcome in found])
            with np.errstate(divide="ignore", invalid="ignore"):
                rows = norms / norms[:, -1:]
            layers = np.arange(1.0, norms.shape[1] + 1)
            curves.append(mean_curve(NAMES[norm], norm, layers, list(rows), log=True))
            if (kind, norm) == ("relu", "batch"):
                # Through BN's curve where the factor is read from: only the slopes are to be compared.
                centre = len(layers) // 2
                level = curves[-1].y[centre]
                theory = tuple(float(level * RELU ** (layers[centre] - layer)) for layer in layers)
                name = say("theory, {factor:.3f} a layer", factor=RELU)
                curves.append(Curve(name, "theory", tuple(map(float, layers)), theory, dashed=True))
        y = Axis("gradient norm / last hidden layer's", log=True)
        panels.append(Panel(activation, Axis("hidden layer, from the input"), y, tuple(curves)))
    return Figure(
        id="limits-depth-gradient",
        title="Gradient norms by layer at initialisation, wide MLPs",
        caption=say(
            "Norm of each hidden layer's weight gradient over the last's, before training, on one batch of "
            "{batch}; geometric mean over {seeds} seeds, bands: 95% intervals. Growth towards the input is a "
            "line that falls to the right; the theory's line is laid through BN's in the middle.",
            batch=subject.batch_size,
            seeds=subject.seeds,
        ),
        alt=_growth_words(wide),
        panels=tuple(panels),
    )


def accuracy_figure(by_depth: Mapping[int, Mapping[str, Tuned]]) -> Figure:
    """Show accuracy and the share of seeds that train against depth."""
    depths = tuple(float(depth) for depth in by_depth)
    accuracy, share = [], []
    for arm in next(iter(by_depth.values())):
        columns = np.stack([arms[arm].accuracy for arms in by_depth.values()], axis=1)
        curve = mean_curve(NAMES[arm], arm, depths, list(columns))
        accuracy.append(replace(curve, mode="lines+markers"))
        trains = tuple(100 * float(trained(arms[arm]).mean()) for arms in by_depth.values())
        share.append(Curve(NAMES[arm], arm, depths, trains, mode="lines+markers"))
    x = Axis("hidden layers")
    return Figure(
        id="limits-depth-accuracy",
        title="ReLU MLPs of growing depth, each arm at its own best learning rate",
        caption=(
            "Left: mean test accuracy over seeds; bands: 95% intervals. Right: share of seeds that train, "
            "that is, end below half of chance's loss."
        ),
        alt=_depth_words(by_depth),
        panels=(
            Panel("Accuracy", x, Axis("test accuracy (%)"), tuple(accuracy)),
            Panel("Who trains", x, Axis("seeds that train (%)"), tuple(share)),
        ),
    )


def growth_table(wide: Wide) -> Table:
    """Return the growth factors by activation and normalisation."""
    rows = []
    for activation, norm in wide:
        factors = _factors(wide, activation, norm)
        known = factors[np.isfinite(factors)]
        mean = float(known.mean()) if len(known) else "not known"
        rows.append((activation, NAMES[norm], mean if isinstance(mean, str) else f"{mean:.4f}", len(known)))
    return Table(
        "Growth of the gradient's norm a layer towards the input, at initialisation",
        ("activation", "arm", "factor, mean over seeds", "seeds"),
        tuple(rows),
    )


def words(wide: Wide, by_depth: Mapping[int, Mapping[str, Tuned]]) -> tuple[str, ...]:
    """Say how gradients grow and how accuracy goes with depth."""
    return (_growth_words(wide), *_lost_words(wide, by_depth), _depth_words(by_depth))


def _lost_words(wide: Wide, by_depth: Mapping[int, Mapping[str, Tuned]]) -> tuple[str, ...]:
    """Say what both arms lose with depth, of seeds that train both when shallow, and how gradients grow."""
    shallow, deep = by_depth[min(by_depth)], by_depth[max(by_depth)]
    kept = np.logical_and.reduce([trained(found) for found in shallow.values()])
    factors = {norm: _factors(wide, "relu", norm) for norm in shallow}
    if not kept.any() or not all(np.isfinite(found).any() for found in factors.values()):
        return ()
    known = {
        "shallow": min(by_depth),
        "deep": max(by_depth),
        **{norm: float((shallow[norm].accuracy - deep[norm].accuracy)[kept].mean()) for norm in shallow},
        **{f"{norm}_factor": float(np.nanmean(found)) for norm, found in factors.items()},
    }
    if known["batch"] > 0 and known["none"] > 0:
        return (
            say(
                "From {shallow} to {deep} layers {batch:.1f} points of test accuracy are lost with BN (gradients at "
                "the start: times {batch_factor:.3f} a layer); without BN {none:.1f} points are lost too (times "
                "{none_factor:.3f}).",
                **known,
            ),
        )
    return (
        say(
            "From {shallow} to {deep} layers test accuracy changes by {batch:+.1f} points with BN (gradients at the "
            "start: times {batch_factor:.3f} a layer) and by {none:+.1f} points without (times {none_factor:.3f}).",
            **{**known, "batch": -known["batch"], "none": -known["none"]},
        ),
    )


def _growth_words(wide: Wide) -> str:
    parts = []
    for activation, norm in wide:
        factors = _factors(wide, activation, norm)
        known = factors[np.isfinite(factors)]
        if len(known):
            parts.append(
                say(
                    "{activation}, {arm} {factor:.3f}",
                    activation=activation,
                    arm=NAMES[norm],
                    factor=float(known.mean()),
                )
            )
    if not parts:
        return "No network's gradients could be read at the start."
    return say(
        "Growth of the gradient's norm a layer towards the input, at the start: {parts}.",
        parts=listed(parts, "; "),
    )


def _depth_words(by_depth: Mapping[int, Mapping[str, Tuned]]) -> str:
    parts = [
        say(
            "{depth} layers {arms}",
            depth=depth,
            arms=listed(
                [
                    say(
                        "{arm} {accuracy:.0f}% ({count} of {seeds} seeds train)",
                        arm=NAMES[arm],
                        accuracy=float(np.mean(found.accuracy)),
                        count=int(trained(found).sum()),
                        seeds=len(found.outcomes),
                    )
                    for arm, found in arms.items()
                ],
                ", ",
            ),
        )
        for depth, arms in by_depth.items()
    ]
    return say("Mean test accuracy by depth: {parts}.", parts=listed(parts, "; "))
