"""gamma-beta-needed: without γ and β the activations' inputs lie in their linear part, and the model is poorer.

Source: the notes; Ioffe and Szegedy 2015 (arXiv 1502.03167), sec. 3: normalising the inputs of a sigmoid
would constrain them to its linear regime, hence γ and β. Expected there: no number.
Cost on 2 cores: quick about 20 seconds, full about 2 minutes.
Command: xhat study --claims gamma-beta-needed
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xhat.lang import listed, say
from xhat.study.claim import Claim, Context, Measurement, Subject, together
from xhat.study.claims._tuned import RATES as STANDARD
from xhat.study.claims._tuned import Tuned, tuned
from xhat.study.curves import mean_curve
from xhat.study.measures import LinearPart
from xhat.study.measures.linear_part import LEVELS
from xhat.study.outcome import Outcome, Training
from xhat.study.result import Axis, ClaimResult, ClaimText, Curve, Effect, Figure, Panel, Table, overall
from xhat.study.spec import TrainSpec
from xhat.study.store import Run
from xhat.study.subjects import mlp, subjects_table
from xhat.study.verdict import difference

# Committed before the first run. The deeper network decides.
POINTS = 1.0  # of test accuracy by which γ and β must help
SHARE = 10.0  # points of share by which the linear part must hold more without them
RATES = {"sigmoid": (0.1, 0.3, 1.0, 3.0, 10.0), "tanh": STANDARD}
BOUNDS = {"sigmoid": 0.80, "tanh": 0.40}  # |z| up to which the activation is within 5% of its tangent at 0
ARMS = {
    "batch": "batch norm with γ, β",
    "bare": "batch norm without γ, β",
    "none": "no normalisation",
}
DEPTHS = (2, 5)

TEXT = ClaimText(
    id="gamma-beta-needed",
    title="Without γ and β, batch norm holds sigmoid and tanh in their linear part",
    says=(
        "If the inputs of the hidden layers have means near 0, in the linear region of the activation, "
        "training a nonlinear network suffers and the model is poorer. Hence γ and β behind the "
        "standardisation."
    ),
    measured=(
        f"MLPs of {DEPTHS[0]} and {DEPTHS[1]} hidden layers with sigmoid and with tanh: BN with γ and β, BN "
        "without, and no normalisation, Xavier initialisation, each arm at its own best learning rate by "
        "training loss, of 0.1 to 10 (sigmoid) or 0.03 to 3 (tanh). Linear part: the values z in front of the "
        "activation at which it differs from its tangent at 0 by at most 5% of the tangent's own change: "
        f"|z| < {BOUNDS['tanh']:.2f} for tanh, {BOUNDS['sigmoid']:.2f} for sigmoid. Its share is taken over all "
        "units and 256 training samples, with batch statistics, as the mean over layers."
    ),
    threshold=(
        f"Supported if, with {DEPTHS[1]} layers and both activations, test accuracy with γ and β is higher by "
        f"more than {POINTS:g} point, and at the end of training the linear part holds a share larger by more "
        f"than {SHARE:g} points without them, each with the whole 95% interval."
    ),
    does_not_show=(
        "γ and β also change the effective learning rate and the number of parameters. The weights of the next "
        "layer can take over γ where the activation is linear, and the bias β, but neither where it bends."
    ),
    source="[IS] Ioffe, Szegedy 2015, arXiv 1502.03167, sec. 3.",
    expected="[IS] gives the argument and no number.",
    cost="quick: about 20 seconds; full: about 2 minutes",
)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Case:
    """One activation and depth."""

    activation: str
    depth: int
    subject: Subject
    arms: Mapping[str, Tuned]
    keys: tuple[str, ...]

    def trained(self, *arms: str) -> list[tuple[Outcome, ...]]:
        """Return the seeds at which all of ``arms`` train, an outcome for each."""
        rows = zip(*(self.arms[arm].outcomes for arm in arms), strict=True)
        return [row for row in rows if all(outcome.trains for outcome in row)]


def measure(context: Context) -> Measurement:
    """Train with and without γ and β, and look in front of the activations."""
    cases = yield from together(
        *(_case(context, activation, depth) for activation in RATES for depth in DEPTHS)
    )
    effects = [effect for case in cases for effect in _effects(case)]
    deep = [case for case in cases if case.depth == DEPTHS[-1]]
    words = tuple(_words(case) for case in deep)
    return ClaimResult(
        TEXT,
        overall(effects),
        words,
        tuple(effects),
        (_inputs_figure(deep, words), _accuracy_figure(cases)),
        (_table(cases), subjects_table(*(case.subject for case in cases))),
        runs=tuple(dict.fromkeys(key for case in cases for key in case.keys)),
    )


def _case(
    context: Context, activation: str, depth: int
) -> Generator[Sequence[TrainSpec], Sequence[Run], _Case]:
    subject = context.subject(mlp(context.preset, depth=depth, activation=activation))
    networks = {
        "batch": subject.network.with_norm("batch"),
        "bare": subject.network.with_norm("batch").with_options(affine=0),
        "none": subject.network.with_norm("none"),
    }
    measures = (LinearPart((0, subject.steps)),)
    training = Training(subject.data, subject.steps, subject.batch_size, measures=measures)
    arms, keys = yield from tuned(subject, networks, rates=RATES[activation], training=training)
    return _Case(activation, depth, subject, arms, keys)


def _share(outcome: Outcome) -> float:
    """Return the share in the linear part at the end, in per cent, the mean over layers."""
    return 100 * float(outcome.measured("linear_part", "share")[-1].mean())


def _effects(case: _Case) -> list[Effect]:
    known = {"activation": case.activation, "depth": case.depth}
    decides = case.depth == DEPTHS[-1]
    edges = [ARMS[arm] for arm in ("batch", "bare") if case.arms[arm].at_edge]
    pairs = case.trained("batch", "bare")
    left_out = case.subject.seeds - len(pairs)
    return [
        difference(
            say("test accuracy, {activation}, {depth} layers", **known),
            "points, with γ and β − without",
            list(case.arms["batch"].accuracy - case.arms["bare"].accuracy),
            threshold=POINTS,
            primary=decides,
            note=say("best rate at the grid's end: {arms}", arms=listed(edges, ", ")) if edges else "",
        ),
        difference(
            say("share in the linear part, {activation}, {depth} layers", **known),
            "points of share, without γ and β − with",
            [_share(bare) - _share(with_) for with_, bare in pairs],
            threshold=SHARE,
            primary=decides,
            note=say("{count} seeds left out in which one of the two does not train", count=left_out)
            if left_out
            else "",
        ),
    ]


def _inputs_figure(cases: Sequence[_Case], words: Sequence[str]) -> Figure:
    y = Axis("share of values with |z| up to there (%)")
    return Figure(
        id="gamma-beta-needed",
        title=say("What enters the activations after training, {depth} hidden layers", depth=DEPTHS[-1]),
        caption=say(
            "Cumulative share of the values in front of the activation by their distance from 0, mean over "
            "layers and over the seeds of {seeds} that train; bands: 95% intervals. Left of the dashed line the "
            "activation is within 5% of its tangent at 0: where a curve meets the line is the share in the "
            "linear part.",
            seeds=cases[0].subject.seeds,
        ),
        alt=say("Cumulative distributions of |z| by arm. {words}", words=listed(words, " ")),
        panels=tuple(
            Panel(case.activation, Axis("|z|, z in front of the activation"), y, _cumulative(case))
            for case in cases
        ),
    )


def _cumulative(case: _Case) -> tuple[Curve, ...]:
    x = np.linspace(0.0, 4.0, 41)
    curves = []
    for arm, name in ARMS.items():
        rows = [
            np.mean([_up_to(x, layer) for layer in outcome.measured("linear_part", "quantile")[-1]], axis=0)
            for (outcome,) in case.trained(arm)
        ]
        if rows:
            curves.append(mean_curve(name, arm, x, rows))
    bound = BOUNDS[case.activation]
    line = Curve("end of the linear part", "linear", (bound, bound), (0.0, 100.0), dashed=True)
    return (*curves, line)


def _up_to(x: Floats, quantiles: Floats) -> Floats:
    """Return the share of values, in per cent, whose distance from 0 is at most x."""
    above, below = (np.interp(ends, quantiles, LEVELS, left=0.0, right=1.0) for ends in (x, -x))
    return np.asarray(100 * (above - below))


def _accuracy_figure(cases: Sequence[_Case]) -> Figure:
    panels = []
    for activation in RATES:
        own = [case for case in cases if case.activation == activation]
        curves = tuple(
            mean_curve(
                name,
                arm,
                [case.depth for case in own],
                list(np.stack([case.arms[arm].accuracy for case in own], axis=1)),
            )
            for arm, name in ARMS.items()
        )
        panels.append(Panel(activation, Axis("hidden layers"), Axis("test accuracy (%)"), curves))
    return Figure(
        id="gamma-beta-needed-accuracy",
        title="Accuracy with and without γ and β",
        caption=say(
            "Mean test accuracy over {seeds} seeds at each arm's best learning rate; bands: 95% intervals.",
            seeds=cases[0].subject.seeds,
        ),
        alt=say(
            "Test accuracy by depth and arm. {words}", words=listed([_words(case) for case in cases], " ")
        ),
        panels=tuple(panels),
    )


def _table(cases: Sequence[_Case]) -> Table:
    rows = []
    for case in cases:
        for arm, name in ARMS.items():
            trained = [_share(outcome) for (outcome,) in case.trained(arm)]
            rows.append(
                (
                    case.activation,
                    case.depth,
                    name,
                    case.arms[arm].rate,
                    float(case.arms[arm].accuracy.mean()),
                    say("{count} of {total}", count=len(trained), total=case.subject.seeds),
                    float(np.mean(trained)) if trained else float("nan"),
                )
            )
    columns = (
        "activation",
        "hidden layers",
        "arm",
        "best rate",
        "test accuracy (%)",
        "seeds that train",
        "in the linear part at the end (%)",
    )
    return Table("Each arm at its best rate", columns, tuple(rows))


def _words(case: _Case) -> str:
    parts = []
    for arm, name in ARMS.items():
        accuracy = float(case.arms[arm].accuracy.mean())
        shares = [_share(outcome) for (outcome,) in case.trained(arm)]
        if shares:
            share = float(np.mean(shares))
            part = say("{arm} {accuracy:.1f}% and {share:.0f}%", arm=name, accuracy=accuracy, share=share)
        else:
            part = say("{arm} {accuracy:.1f}%, no seed trains", arm=name, accuracy=accuracy)
        parts.append(part)
    return say(
        "{activation}, {depth} hidden layers, mean test accuracy and share in the linear part at the end: {parts}.",
        activation=case.activation,
        depth=case.depth,
        parts=listed(parts, "; "),
    )


CLAIM = Claim(TEXT, measure, takes_networks=False)
