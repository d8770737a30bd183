"""What rescaled weights change, as curves and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xhat.lang import say
from xhat.study.claim import Subject
from xhat.study.curves import ARM_NAMES, mean_curve
from xhat.study.outcome import Outcome
from xhat.study.result import Axis, Curve, Figure, Panel, Table


@dataclass(frozen=True)
class Rescaled:
    """Trained networks by arm, one outcome a seed, rescaled at the end as ``Rescale`` says."""

    subject: Subject
    arms: Mapping[str, tuple[Outcome, ...]]
    factors: tuple[float, ...]
    spreads: tuple[float, ...]
    keys: tuple[str, ...]  # of the runs

    def factor(self, a: float) -> int:
        """Return the place of the case in which all weights are multiplied by ``a``."""
        return self.factors.index(a)

    def spread(self, s: float) -> int:
        """Return the place of the case in which every unit has a factor from 1/s to s."""
        return len(self.factors) + self.spreads.index(s)

    def trained(self, arm: str) -> list[Outcome]:
        """Return the seeds that train."""
        return [outcome for outcome in self.arms[arm] if outcome.trains]


def change(outcome: Outcome, of: str, case: int) -> float:
    """Return what a case changes, in per cent: of "output", "stale" or "gradient"."""
    return 100 * float(outcome.measured("rescale", of)[-1, case])


def rescaling_figure(part: Rescaled, words: str) -> Figure:
    """Draw the change of the output against the factor, and against the spread of the units' factors."""
    cases = len(part.factors)
    y = Axis("relative change of the output (%)", log=True)
    every = range(cases, cases + len(part.spreads))
    return Figure(
        id=f"scale-insensitive-{part.subject.network.name}",
        title=say("What rescaled weights change: {subject}", subject=part.subject.name),
        caption=say(
            "Trained networks; weights and biases of all hidden layers multiplied at once. Left: by one "
            "factor. Right: by a random factor for every output unit, log-uniform from 1/s to s. Solid: batch "
            "statistics; dashed: evaluation mode, running statistics of before. Geometric means over the seeds "
            "of {seeds} that train; bands: 95% intervals.",
            seeds=part.subject.seeds,
        ),
        alt=say("Relative change of the output against the factor. {words}", words=words),
        panels=(
            Panel(
                "One factor for all weights",
                Axis("factor", log=True),
                y,
                _curves(part, part.factors, range(cases)),
            ),
            Panel(
                "A factor for every unit",
                Axis("largest factor s", log=True),
                y,
                _curves(part, part.spreads, every),
            ),
        ),
    )


def _curves(part: Rescaled, x: Sequence[float], cases: Sequence[int]) -> tuple[Curve, ...]:
    curves = []
    for arm in part.arms:
        trained = part.trained(arm)
        modes = {"output": ARM_NAMES[arm]}
        if arm == "batch":
            modes["stale"] = say("{arm}, evaluation mode", arm=ARM_NAMES[arm])
        for of, name in modes.items() if trained else ():
            rows = [np.array([change(outcome, of, case) for case in cases]) for outcome in trained]
            curve = mean_curve(name, arm, x, rows, log=True)
            curves.append(
                Curve(
                    name, arm, curve.x, curve.y, curve.low, curve.high, "lines+markers", dashed=of == "stale"
                )
            )
    return tuple(curves)


def rescaling_table(parts: Sequence[Rescaled], asked: tuple[float, float]) -> Table:
    """Return medians over the seeds that train, a row for every network, arm and deciding case."""
    rows: list[tuple[str | float, ...]] = []
    for part in parts:
        cases = {say("times {factor:g}", factor=a): part.factor(a) for a in asked}
        cases[say("each unit times {low:g} to {high:g}", low=asked[0], high=asked[1])] = part.spread(asked[1])
        for arm in part.arms:
            trained = part.trained(arm)
            for name, case in cases.items() if trained else ():
                medians = [
                    float(np.median([change(o, of, case) for o in trained]))
                    for of in ("output", "stale", "gradient")
                ]
                cosine = float(np.median([o.measured("rescale", "cosine")[-1, case] for o in trained]))
                rows.append((part.subject.name, ARM_NAMES[arm], name, *medians, cosine))
    columns = (
        "network",
        "arm",
        "weights",
        "output, batch statistics (%)",
        "output, evaluation mode (%)",
        "norm of the gradient times the factor (%)",
        "cosine with the gradient before",
    )
    return Table("What rescaled weights change; medians over seeds", columns, tuple(rows))
