"""Weight decay under BN: what it leaves of the weights' size, and of the effective learning rate."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from xhat.lang import say
from xhat.study.claim import Subject
from xhat.study.curves import mean_curve, spaced
from xhat.study.measures import WeightNorms
from xhat.study.outcome import Outcome, Training, outcomes, specs
from xhat.study.result import Axis, Curve, Effect, Figure, Panel, Table
from xhat.study.spec import Member, TrainSpec
from xhat.study.store import Run
from xhat.study.verdict import difference

SLOPE = 0.2  # by which the slope may differ from 1; committed before the first run
# ‖w‖⁴ comes to its equilibrium as 1 − exp(−4ηλ·steps) from small weights: to 86% at least in 400 steps. From
# He weights, a thousand times too large in ‖w‖⁴, it takes three times as long.
RATES = (0.25, 1.0)
DECAYS = (0.005, 0.01, 0.02)
SCALE = 0.1  # of the initial weights
POINTS = 24  # of the curves over training

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Decayed:
    """BN networks by learning rate η and decay λ, one outcome a seed."""

    subject: Subject
    found: Mapping[tuple[float, float], tuple[Outcome, ...]]
    keys: tuple[str, ...]


def with_decay(subject: Subject) -> Generator[Sequence[TrainSpec], Sequence[Run], Decayed]:
    """Train with BN at every rate and decay, and without decay."""
    cases = list(product(RATES, (0.0, *DECAYS)))
    members = [_member(subject, seed, rate, decay) for seed in range(subject.seeds) for rate, decay in cases]
    measures = (WeightNorms((*spaced(subject.steps, POINTS), subject.steps)),)
    training = Training(subject.data, subject.steps, subject.batch_size, measures=measures)
    network = subject.network.with_norm("batch")
    wanted = specs(network, members, training)
    runs = yield wanted
    trained = outcomes(wanted, runs)
    found = {
        (rate, decay): tuple(
            trained[network, _member(subject, seed, rate, decay)] for seed in range(subject.seeds)
        )
        for rate, decay in cases
    }
    return Decayed(subject, found, tuple(dict.fromkeys(run.key for run in runs)))


def _member(subject: Subject, seed: int, rate: float, decay: float) -> Member:
    return Member(seed, rate, subject.init, SCALE, decay)


def size(outcome: Outcome) -> Floats:
    """Shape (A,): geometric mean over the hidden layers of ‖w‖."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.exp(np.log(outcome.measured("weight_norms", "norm")).mean(axis=1)))


def slopes(decayed: Decayed) -> Floats:
    """Return the slope of log ‖w‖⁴ over log(η/λ) at the end of training, a seed each that is finite."""
    cases = list(product(RATES, DECAYS))
    x = np.log([rate / decay for rate, decay in cases])
    rows = []
    for seed in range(decayed.subject.seeds):
        outcomes_ = [decayed.found[case][seed] for case in cases]
        if all(_finite(outcome) for outcome in outcomes_):
            rows.append([4 * np.log(size(outcome)[-1]) for outcome in outcomes_])
    return np.array([np.polyfit(x, row, 1)[0] for row in rows])


def _finite(outcome: Outcome) -> bool:
    return bool(np.isfinite(outcome.final_loss) and np.isfinite(size(outcome)).all())


def effect(decayed: Decayed) -> Effect:
    """Return how far the slope lies from the 1 of an equilibrium; outside the verdict."""
    found = slopes(decayed)
    return difference(
        say("slope of log ‖w‖⁴ over log(learning rate / decay), {subject}", subject=decayed.subject.name),
        "slope − 1, batch norm",
        list(found - 1),
        threshold=SLOPE,
        rule="within",
        primary=False,
        note=say(
            "mean slope {slope:.2f}; rates {low:g} and {high:g}, decays {least:g} to {most:g}",
            slope=float(found.mean()) if len(found) else float("nan"),
            low=RATES[0],
            high=RATES[1],
            least=DECAYS[0],
            most=DECAYS[-1],
        ),
    )


def figure(decayed: Decayed) -> Figure:
    """Draw sizes over training at the lower rate, and the end against η/λ."""
    at = decayed.found[RATES[0], 0.0]
    groups = {decay: [o for o in decayed.found[RATES[0], decay] if _finite(o)] for decay in (0.0, *DECAYS)}
    steps = next((o.measured_step("weight_norms") for o in at if _finite(o)), np.array([]))

    def over_training(of: str) -> tuple[Curve, ...]:
        return tuple(
            mean_curve(
                say("decay {decay:g}", decay=decay),
                f"decay {decay:g}",
                steps,
                [_row(outcome, of)[: len(steps)] for outcome in group],
                log=of != "gamma",
            )
            for decay, group in groups.items()
            if group and len(steps)
        )

    step = Axis("training step")
    return Figure(
        id="scale-insensitive-decay",
        title=say("Weight decay under batch norm: {subject}", subject=decayed.subject.name),
        caption=say(
            "The first three: over training at learning rate {rate:g}, by decay; means over hidden layers and "
            "{seeds} seeds, geometric for ‖w‖ and learning rate / ‖w‖². The last: ‖w‖⁴ at the end of training "
            "against learning rate / decay; dashed: a slope of 1 through the middle. Initial weights are {scale:g} "
            "times the usual ones. Bands: 95% intervals.",
            rate=RATES[0],
            scale=SCALE,
            seeds=decayed.subject.seeds,
        ),
        alt=say("Weight size, effective learning rate and γ over training. {words}", words=words(decayed)),
        panels=(
            Panel(
                "Size of the weights", step, Axis("‖w‖ of a hidden layer", log=True), over_training("size")
            ),
            Panel(
                "Effective learning rate",
                step,
                Axis("learning rate / ‖w‖²", log=True),
                over_training("effective"),
            ),
            Panel("Size of γ", step, Axis("mean of |γ|"), over_training("gamma")),
            Panel(
                "Equilibrium",
                Axis("learning rate / decay", log=True),
                Axis("‖w‖⁴ at the end", log=True),
                _equilibrium(decayed),
            ),
        ),
    )


def _row(outcome: Outcome, of: str) -> Floats:
    if of == "gamma":
        return np.asarray(outcome.measured("weight_norms", "gamma").mean(axis=1))
    return size(outcome) if of == "size" else np.asarray(outcome.member.lr / size(outcome) ** 2)


def _equilibrium(decayed: Decayed) -> tuple[Curve, ...]:
    curves = []
    for rate in RATES:
        x = [rate / decay for decay in reversed(DECAYS)]
        rows = [
            np.array([size(decayed.found[rate, decay][seed])[-1] ** 4 for decay in reversed(DECAYS)])
            for seed in range(decayed.subject.seeds)
            if all(_finite(decayed.found[rate, decay][seed]) for decay in DECAYS)
        ]
        if rows:
            name = say("learning rate {rate:g}", rate=rate)
            curves.append(mean_curve(name, f"rate {rate:g}", x, rows, log=True))
    points = [(x, y) for curve in curves for x, y in zip(curve.x, curve.y, strict=True)]
    if points:
        x, y = (np.exp(np.log(values).mean()) for values in zip(*points, strict=True))
        ends = (min(point[0] for point in points), max(point[0] for point in points))
        line = tuple(float(y * end / x) for end in ends)
        curves.append(Curve("slope 1", "slope 1", ends, line, dashed=True))
    return tuple(curves)


def table(decayed: Decayed) -> Table:
    """Return the end of training by rate and decay."""
    rows = []
    for (rate, decay), group in decayed.found.items():
        finite = [outcome for outcome in group if _finite(outcome)]
        ends = np.array([size(outcome)[-1] for outcome in finite]) if finite else np.array([np.nan])
        middle = float(np.exp(np.log(ends).mean()))
        rows.append(
            (
                rate,
                decay,
                say("{count} of {total}", count=len(finite), total=len(group)),
                middle,
                rate / middle**2,
                100 * float(np.mean([outcome.test_accuracy for outcome in group])),
            )
        )
    columns = (
        "learning rate",
        "decay",
        "seeds that stay finite",
        "‖w‖ at the end",
        "learning rate / ‖w‖²",
        "test accuracy (%)",
    )
    return Table("Weight decay under batch norm", columns, tuple(rows))


def words(decayed: Decayed) -> str:
    """Say the slope and the accuracies."""
    found = slopes(decayed)
    if not len(found):
        return say(
            "Weight decay, {subject}: no seed stays finite at every setting.", subject=decayed.subject.name
        )
    accuracy = [100 * float(np.mean([o.test_accuracy for o in group])) for group in decayed.found.values()]
    return say(
        "Weight decay, {subject} with batch norm: mean slope of log ‖w‖⁴ over log(learning rate / decay) "
        "{slope:.2f}; mean test accuracy of the settings from {low:.0f}% to {high:.0f}%.",
        subject=decayed.subject.name,
        slope=float(found.mean()),
        low=min(accuracy),
        high=max(accuracy),
    )
