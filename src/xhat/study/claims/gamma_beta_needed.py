"""gamma-beta-needed: without γ and β the activations' inputs lie in their linear part, and the model is poorer.

Source: the notes; Ioffe and Szegedy 2015 (arXiv 1502.03167), sec. 3: normalising the inputs of a sigmoid
would constrain them to its linear regime, hence γ and β. Expected there: no number.
Cost on 2 cores: quick about 20 seconds, full about 2 minutes.
Command: xhat study --claims gamma-beta-needed
"""

from collections.abc import Generator, Sequence

from scipy import stats

from xhat.lang import listed, say
from xhat.study.claim import Claim, Context, Measurement, together
from xhat.study.claims._gamma_beta_figures import (
    ARMS,
    BOUNDS,
    Case,
    accuracy_figure,
    case_words,
    cases_table,
    inputs_figure,
    share,
)
from xhat.study.claims._tuned import RATES as STANDARD
from xhat.study.claims._tuned import tuned
from xhat.study.measures import LinearPart
from xhat.study.outcome import Training
from xhat.study.result import ClaimResult, ClaimText, Effect, overall
from xhat.study.spec import TrainSpec
from xhat.study.store import Run
from xhat.study.subjects import mlp, subjects_table
from xhat.study.verdict import difference

# Committed before the first run. The deeper network decides.
POINTS = 1.0  # of test accuracy by which γ and β must help
SHARE = 10.0  # points of share by which the linear part must hold more without them
RATES = {"sigmoid": (0.1, 0.3, 1.0, 3.0, 10.0), "tanh": STANDARD}
DEPTHS = (2, 5)


def held(activation: str) -> float:
    """Return the share in per cent of a standard Gaussian, as BN without γ and β makes it, in the linear part."""
    return 100 * float(2 * stats.norm.cdf(BOUNDS[activation]) - 1)


def needed(activation: str) -> float:
    """Return the γ with which the linear part holds ``SHARE`` points less of a Gaussian."""
    left = (held(activation) - SHARE) / 100
    return BOUNDS[activation] / float(stats.norm.ppf((1 + left) / 2))


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
        "units and 256 training samples, with batch statistics, as the mean over layers. "
        "Seeds in which one of the two arms compared does not train are left out."
    ),
    threshold=(
        f"Supported if, with {DEPTHS[1]} layers and both activations, test accuracy with γ and β is higher by "
        f"more than {POINTS:g} point, and at the end of training the linear part holds a share larger by more "
        f"than {SHARE:g} points without them, each with the whole 95% interval."
    ),
    does_not_show=(
        "By construction, if values are Gaussian, BN without γ and β holds "
        f"{held('sigmoid'):.1f}% (sigmoid) and {held('tanh'):.1f}% (tanh) of them in the linear part. To take "
        f"{SHARE:g} points off that, with β = 0, needs a γ of about {needed('sigmoid'):.2f} and "
        f"{needed('tanh'):.2f}: “contradicted”, for tanh above all, may only mean that γ had no time to grow. "
        "γ and β also change the effective learning rate and the number of parameters. The weights of the next "
        "layer can take over γ where the activation is linear, and the bias β, but neither where it bends."
    ),
    source="[IS] Ioffe, Szegedy 2015, arXiv 1502.03167, sec. 3.",
    expected="[IS] gives the argument and no number.",
    cost="quick: about 20 seconds; full: about 2 minutes",
    changes=(
        "Seeds in which one of the two arms does not train counted in the accuracy; they are now left out of "
        "it, as they were of the share, and all seeds are shown beside."
    ),
)


def measure(context: Context) -> Measurement:
    """Train with and without γ and β, and look in front of the activations."""
    cases = yield from together(
        *(_case(context, activation, depth) for activation in RATES for depth in DEPTHS)
    )
    effects = [effect for case in cases for effect in _effects(case)]
    deep = [case for case in cases if case.depth == DEPTHS[-1]]
    words = tuple(case_words(case) for case in deep)
    return ClaimResult(
        TEXT,
        overall(effects),
        words,
        tuple(effects),
        (inputs_figure(deep, words), accuracy_figure(cases)),
        (cases_table(cases), subjects_table(*(case.subject for case in cases))),
        runs=tuple(dict.fromkeys(key for case in cases for key in case.keys)),
    )


def _case(
    context: Context, activation: str, depth: int
) -> Generator[Sequence[TrainSpec], Sequence[Run], Case]:
    subject = context.subject(mlp(context.preset, depth=depth, activation=activation))
    networks = {
        "batch": subject.network.with_norm("batch"),
        "bare": subject.network.with_norm("batch").with_options(affine=0),
        "none": subject.network.with_norm("none"),
    }
    measures = (LinearPart((0, subject.steps)),)
    training = Training(subject.data, subject.steps, subject.batch_size, measures=measures)
    arms, keys = yield from tuned(subject, networks, rates=RATES[activation], training=training)
    return Case(activation, depth, subject, arms, keys)


def _effects(case: Case) -> list[Effect]:
    known = {"activation": case.activation, "depth": case.depth}
    decides = case.depth == DEPTHS[-1]
    edges = [ARMS[arm] for arm in ("batch", "bare") if case.arms[arm].at_edge]
    edge = [say("best rate at the grid's end: {arms}", arms=listed(edges, ", "))] if edges else []
    pairs = case.trained("batch", "bare")
    left_out = case.subject.seeds - len(pairs)
    left = [say("{count} seeds left out in which one of the two does not train", count=left_out)]
    left = left if left_out else []
    effects = [
        difference(
            say("test accuracy, {activation}, {depth} layers", **known),
            "points, with γ and β − without",
            [100 * (with_.test_accuracy - bare.test_accuracy) for with_, bare in pairs],
            threshold=POINTS,
            primary=decides,
            note=listed([*left, *edge]),
        ),
        difference(
            say("share in the linear part, {activation}, {depth} layers", **known),
            "points of share, without γ and β − with",
            [share(bare) - share(with_) for with_, bare in pairs],
            threshold=SHARE,
            primary=decides,
            note=listed(left),
        ),
    ]
    if left_out:
        effects.append(
            difference(
                say("test accuracy, {activation}, {depth} layers, all seeds", **known),
                "points, with γ and β − without",
                list(case.arms["batch"].accuracy - case.arms["bare"].accuracy),
                threshold=POINTS,
                primary=False,
                note=say(
                    "{count} seeds in which one of the two does not train are among them", count=left_out
                ),
            )
        )
    return effects


CLAIM = Claim(TEXT, measure, takes_networks=False)
