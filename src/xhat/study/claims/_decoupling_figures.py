"""What the claim "decoupling" shows: shifts over the size of the noise, the control's error, tables, words."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from xhat.lang import listed, say
from xhat.study.claims._decoupling import (
    CAP,
    DECIDES,
    LATE,
    LAYERS,
    SHIFTS,
    SIZES,
    WAYS_TAKEN,
    Seen,
    decides,
    middle,
)
from xhat.study.curves import mean_curve
from xhat.study.result import Axis, Curve, Figure, Panel, Table
from xhat.study.verdict import interval

SHIFT_NAMES = {
    "none": "no normalisation",
    "batch": "batch norm, the batch's statistics",
    "running": "batch norm, statistics from before the noise",
    "affine": "batch norm, noise on γ and β too",
}
WAY_NAMES = {
    "batch": "batch norm, through γ and β",
    "all": "no normalisation, through all weights",
    "layer": "no normalisation, through the layer's own weights",
    "fixed": "batch norm, through all weights, γ and β fixed",
}
TIMES = {False: "start", True: "end"}


def shift_figure(seen: Sequence[Seen]) -> Figure:
    panels = []
    for networks in seen:
        curves = []
        for name, (arm, _) in SHIFTS.items():
            rows = networks.shift(name, LATE, end=True)
            if len(rows):
                colour = name if name == "affine" else arm
                curve = mean_curve(SHIFT_NAMES[name], colour, SIZES, list(rows), log=True)
                curves.append(replace(curve, mode="lines+markers", dashed=name == "running"))
        panels.append(
            Panel(
                networks.subject.name,
                Axis("size of the noise, ‖δ‖ / ‖W‖", log=True),
                Axis("shift of moments (standard deviations)", log=True),
                tuple(curves),
            )
        )
    return Figure(
        id="decoupling-perturb",
        title=say(
            "How far the moments of layer {after}'s input move when the weights before it are perturbed",
            after=LATE + 2,
        ),
        caption=(
            "After training, each arm at its own best learning rate. Geometric mean over the seeds that train "
            "in both arms; bands: 95% intervals."
        ),
        alt=listed([shift_words(networks) for networks in seen], " "),
        panels=tuple(panels),
    )


def shift_table(seen: Sequence[Seen]) -> Table:
    rows: list[tuple[str | float | int, ...]] = []
    for networks in seen:
        for layer in LAYERS:
            for end, time in TIMES.items():
                units = [networks.compared(name, layer, end=end) for name in SHIFTS]
                rows.append(
                    (
                        networks.subject.name,
                        layer + 1,
                        time,
                        *(middle(decides(networks.shift(name, layer, end=end))) for name in SHIFTS),
                        min((100 * float(np.mean(share)) for share in units if len(share)), default=np.nan),
                    )
                )
    return Table(
        say("Shift of moments at r = {size:g}, geometric mean over seeds", size=DECIDES),
        ("network", "layer", "training", *SHIFT_NAMES.values(), "units that vary (%), fewest"),
        tuple(rows),
    )


def shift_words(seen: Seen) -> str:
    if not seen.pairs(end=True):
        return say("{network}: no seed trains in both arms.", network=seen.subject.name)
    return say(
        "{network}, noise of {size:.0%} on all weights up to layer {layer}: without normalisation the moments "
        "of the next layer's input move {batch} times as far as with BN in training mode, where before the "
        "activation this holds by construction. With fixed statistics, those from before the noise as in "
        "evaluation mode, the advantage is {running}; with noise on γ and β too it is {affine} (1: none; "
        "95% intervals over seeds, end of training). The moments move by {shift_none:.2g} standard deviations "
        "without normalisation; with BN by {shift_batch:.2g}, {shift_running:.2g} and {shift_affine:.2g}.",
        network=seen.subject.name,
        size=DECIDES,
        layer=LATE + 1,
        **{name: _ratio_words(seen, name) for name in SHIFTS if name != "none"},
        **{f"shift_{name}": middle(decides(seen.shift(name, LATE, end=True))) for name in SHIFTS},
    )


def _ratio_words(seen: Seen, name: str) -> str:
    estimate, low, high = np.exp(interval(list(seen.ratios(name, LATE))))
    return say("{estimate:.3g} [{low:.3g}, {high:.3g}]", estimate=estimate, low=low, high=high)


def control_figure(seen: Seen) -> Figure:
    panels = []
    for end, time in TIMES.items():
        curves: list[Curve] = []
        for name, (arm, _) in WAYS_TAKEN.items():
            rows = 100 * seen.control(name, "error", end=end)
            if len(rows):
                curve = mean_curve(WAY_NAMES[name], arm, range(CAP + 1), list(rows), log=True)
                curves.append(replace(curve, dashed=name in ("layer", "fixed")))
        curves.append(Curve("goal", "goal", (0.0, float(CAP)), (1.0, 1.0), dashed=True))
        panels.append(
            Panel(
                say("At the {time} of training", time=time),
                Axis("step of gradient descent"),
                Axis("error of the moments (% of the start's)", log=True),
                tuple(curves),
            )
        )
    return Figure(
        id="decoupling-control",
        title=say(
            "Bringing layer {layer}'s moments to given values by gradient descent, {network}",
            layer=LATE + 1,
            network=seen.subject.name,
        ),
        caption=(
            "Geometric mean over seeds, each at its own best rate; bands: 95% intervals. All networks of an arm "
            "descend until every one has reached the goal, and a curve stays at its last value from there."
        ),
        alt=control_words(seen),
        panels=tuple(panels),
    )


def control_table(seen: Seen) -> Table:
    rows = []
    for end, time in TIMES.items():
        for name, way in WAY_NAMES.items():
            steps = seen.control(name, "steps", end=end)
            rates = seen.control(name, "rate", end=end)
            reached = steps <= CAP
            rows.append(
                (
                    time,
                    way,
                    say("{reached} of {seeds}", reached=int(reached.sum()), seeds=len(steps)),
                    float(np.median(steps[reached])) if reached.any() else "-",
                    float(np.median(rates[reached])) if reached.any() else "-",
                )
            )
    return Table(
        say("Steps until the moments' error is below 1% of its start, {cap} at most", cap=CAP),
        ("training", "way", "seeds that reach it", "steps, median of these", "best rate, median"),
        tuple(rows),
    )


def control_words(seen: Seen) -> str:
    if not seen.pairs(end=True):
        return say("Control, {network}: no seed trains in both arms.", network=seen.subject.name)
    found = []
    for name, way in WAY_NAMES.items():
        steps = np.sort(seen.control(name, "steps", end=True))
        median = float(steps[len(steps) // 2])
        if median <= CAP:
            found.append(say("{way}: {steps:.0f}", way=way, steps=median))
        else:
            found.append(say("{way}: not within {cap}", way=way, cap=CAP))
    return say(
        "Steps to bring layer {layer}'s moments to given values after training, median over seeds: {ways}. "
        "γ and β have these moments as coordinates: what is compared is descent in the coordinates themselves "
        "with descent through weights.",
        layer=LATE + 1,
        ways=listed(found),
    )
