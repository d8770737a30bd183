"""The figures of diverging-distributions: percentiles, drift, a slider over training, drift against loss."""

from collections.abc import Mapping

import numpy as np

from xhat.lang import say
from xhat.study.claims._diverging_conditions import BN_CONVERGES, CONVERGES
from xhat.study.claims._drift import PERCENTILES, STILL, Movement
from xhat.study.curves import mean_curve
from xhat.study.result import Axis, Curve, Figure, Frame, Panel

LEVELS = dict(zip(PERCENTILES, ("15th percentile", "median", "85th percentile"), strict=True))
TITLES = {  # of the places in ``Watched``
    "before normalisation": "Before normalisation",
    "after normalisation": "After normalisation",
    "at the next layer's input": "At the next layer's input",
}
MAX_FRAMES = 24


def figures(moved: Mapping[str, list[Movement]]) -> tuple[Figure, ...]:
    """Return the claim's figures; conditions without a finite seed are left out."""
    shown = {
        name: finite
        for name, movements in moved.items()
        if (finite := [m for m in movements if np.isfinite(m.late_drift)])
    }
    if not shown:
        return ()
    return (_scatter(shown), _drift(shown), _percentiles(shown), _slider(shown))


def _scatter(shown: Mapping[str, list[Movement]]) -> Figure:
    curves = tuple(
        Curve(
            name,
            arm(name),
            tuple(max(m.late_drift, STILL) for m in movements),
            tuple(m.outcome.final_loss for m in movements),
            mode="markers",
        )
        for name, movements in shown.items()
    )
    return Figure(
        id="diverging-scatter",
        title="Stability and training",
        caption=say(
            "One point a network. Left: distributions stand still ({still:g}: no movement). Bottom: the network "
            "has learned.",
            still=STILL,
        ),
        alt="Final loss against drift of the layer distributions, one cloud a condition.",
        panels=(
            Panel(
                "Final loss against drift",
                Axis("drift in the second half (standard deviations between records)", log=True),
                Axis("final training loss (cross-entropy)", log=True),
                curves,
            ),
        ),
    )


def _drift(shown: Mapping[str, list[Movement]]) -> Figure:
    watched = next(iter(shown.values()))[0].watched
    axes = Axis("training step"), Axis("drift (standard deviations)", log=True)
    panels = tuple(
        Panel(
            TITLES.get(place, place),
            *axes,
            tuple(
                mean_curve(
                    name,
                    arm(name),
                    movements[0].steps[1:],
                    [np.maximum(m.drift(m.at(place) if watched else m.inputs), STILL) for m in movements],
                    log=True,
                )
                for name, movements in shown.items()
            ),
        )
        for place in (watched or ("Inputs of the layers",))
    )
    return Figure(
        id="diverging-drift",
        title="Drift of the distributions over training",
        caption=say(
            "Wasserstein-1 distance between neighbouring records over the pooled standard deviation, mean over "
            "the layers; geometric mean over seeds, bands: 95% intervals. {still:g}: no movement. With noise each "
            "record draws new noise, which counts as drift.",
            still=STILL,
        ),
        alt="Drift against training step, one curve a condition.",
        panels=panels,
    )


def _percentiles(shown: Mapping[str, list[Movement]]) -> Figure:
    panels = []
    for name, movements in shown.items():
        movement = movements[0]
        positions = movement.at("before normalisation") if movement.watched else movement.inputs
        position = positions[len(positions) // 2]
        steps = tuple(map(float, movement.steps))
        curves = tuple(
            Curve(
                label,
                label,
                steps,
                tuple(map(float, position.percentile(percent)[: len(steps), 0])),
                dashed=percent != 50,
            )
            for percent, label in LEVELS.items()
        )
        panels.append(Panel(name, Axis("training step"), Axis("value in the middle layer"), curves))
    return Figure(
        id="diverging-percentiles",
        title="Percentiles in a middle layer, before normalisation",
        caption=(
            "The first seed of each condition that stays finite; all units of the layer together. "
            "The panels have scales of their own."
        ),
        alt="The 15th, 50th and 85th percentile in a middle layer over training, a panel a condition.",
        panels=tuple(panels),
    )


def arm(name: str) -> str:
    """Return the colour key of a condition: the two that converge look as everywhere else."""
    return {CONVERGES: "none", BN_CONVERGES: "batch"}.get(name, name)


def _slider(shown: Mapping[str, list[Movement]]) -> Figure:
    first = next(iter(shown.values()))[0]
    layers = [position.layer for position in first.inputs]
    chosen = sorted({0, len(layers) // 2, len(layers) - 1})
    kept = np.unique(
        np.linspace(0, len(first.steps) - 1, min(MAX_FRAMES, len(first.steps))).round().astype(int)
    )
    frames = tuple(
        Frame(
            say("{step:.0f}", step=float(first.steps[index])),
            tuple(
                Panel(
                    say("Input of {layer}", layer=layers[place]),
                    Axis("value"),
                    Axis("share of values below"),
                    tuple(
                        _cumulative(name, movements[0], place, int(index))
                        for name, movements in shown.items()
                    ),
                )
                for place in chosen
            ),
        )
        for index in kept
    )
    return Figure(
        id="diverging-slider",
        title="Distributions over training",
        caption=(
            "Cumulative distribution of what enters an early, a middle and a late layer, first finite seed of "
            "each condition, all units together. A vertical line is a layer whose values are all the same. Move "
            "the slider through training."
        ),
        alt="Cumulative distributions of three layers' inputs, one curve a condition, at a chosen training step.",
        panels=frames[0].panels,
        frames=frames,
        slider="training step",
    )


def _cumulative(name: str, movement: Movement, place: int, index: int) -> Curve:
    position = movement.inputs[min(place, len(movement.inputs) - 1)]
    levels = position.quantiles
    # Without the extremes: one outlier would set the scale of all frames.
    inner = slice(1, -1)
    return Curve(
        name, arm(name), tuple(map(float, position.pooled[index, 0][inner])), tuple(map(float, levels[inner]))
    )
