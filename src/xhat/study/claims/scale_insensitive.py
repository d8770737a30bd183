"""scale-insensitive: with BN a network does not feel the scale of its weights; γ sets the scale, in training.

Source: Ioffe and Szegedy 2015 (arXiv 1502.03167), sec. 3.3: BN((aW)u) = BN(Wu), ∂BN((aW)u)/∂(aW) =
(1/a)·∂BN(Wu)/∂W. On decay van Laarhoven 2017 (arXiv 1706.05350). Expected there: both equations, exact but
for ε; at equilibrium ‖w‖⁴ grows as learning rate / decay.
Cost on 2 cores: quick about 30 seconds, full about 3 minutes.
Command: xhat study --claims scale-insensitive
"""

from collections.abc import Generator, Mapping, Sequence

import numpy as np

from xhat.lang import say
from xhat.study.claim import Claim, Context, Measurement, Subject, together
from xhat.study.claims import _weight_decay as decay
from xhat.study.claims._scale_figures import Rescaled, change, rescaling_figure, rescaling_table
from xhat.study.curves import ARM_NAMES
from xhat.study.measures import Rescale, WeightNorms
from xhat.study.outcome import Outcome, Training, outcomes, specs
from xhat.study.result import ClaimResult, ClaimText, Effect, overall
from xhat.study.spec import Member, TrainSpec
from xhat.study.store import Run
from xhat.study.subjects import mlp, subjects_table, vgg
from xhat.study.verdict import difference, ratio

# Committed before the first run.
WITHIN = 1.0  # per cent by which output or gradient may change
ASKED = (0.1, 10.0)  # the factors that decide; for single units any between them
TIMES = 10.0  # by which the plain network's output changes more
MOVED = 5.0  # per cent by which training moves γ from 1
RATE = 0.1  # at which the networks were trained
FACTORS = (0.01, 0.03, 0.1, 0.3, 3.0, 10.0, 30.0, 100.0)
SPREADS = (1.5, 3.0, 10.0, 30.0, 100.0)

TEXT = ClaimText(
    id="scale-insensitive",
    title="Batch norm makes the network insensitive to the scale of its weights",
    says=(
        "With BN the network is no longer sensitive to the scale of the weights, nor to the scale of one "
        "output unit's: the standard deviation scales with them and cancels. The scale is governed by γ, which "
        "training decides."
    ),
    measured=(
        f"Networks are trained at learning rate {RATE:g}. Then weights and biases of all hidden layers are "
        "multiplied at once: by one factor from 0.01 to 100, or by a random factor for every output unit, "
        "log-uniform from 1/s to s. Measured on one batch: the relative change of the output, "
        "‖f′ − f‖/‖f‖, with batch statistics and in evaluation mode, where the running statistics are those "
        "of before; and the norm of the gradient times the factor, against that before. Beside it: how far "
        "training moves γ, and the size of weights under weight decay, in an MLP of five layers that starts "
        "from small weights and takes twice as many steps."
    ),
    threshold=(
        f"Supported if BN's output changes by less than {WITHIN:g}% with batch statistics, with the whole 95% "
        f"interval, for both networks: for one factor of {ASKED[0]:g} or {ASKED[1]:g} (the worse of the two), "
        f"and for a factor for every unit, from {ASKED[0]:g} to {ASKED[1]:g}."
    ),
    does_not_show=(
        "With BN the output cannot change but for ε and rounding: the verdict confirms this identity in float32 "
        "in real trained networks, and is no discovery. That the root mean square of γ − 1 is positive follows "
        "from noise of the gradient alone; it does not show that training finds the scale it needs. "
        "The output layer is not scaled: no BN stands behind it. Evaluation mode is insensitive only once the "
        "running statistics have followed. An output that does not change does not mean that training goes on "
        "as before: the gradient is divided by the factor."
    ),
    source="[IS] Ioffe, Szegedy 2015, arXiv 1502.03167, sec. 3.3; van Laarhoven 2017, arXiv 1706.05350.",
    expected=(
        "[IS]: neither output nor, but for the factor 1/a, gradient changes. van Laarhoven: decay sets the "
        "effective learning rate only; ‖w‖⁴ ∝ learning rate / decay at equilibrium."
    ),
    cost="quick: about 30 seconds; full: about 3 minutes",
    changes=(
        "The runs with weight decay, which are outside the verdict, started from He's weights, far above their "
        "equilibrium, and ended before they reached it. They now start from a tenth of them, with smaller "
        "decays, fewer layers and twice the steps."
    ),
)


def measure(context: Context) -> Measurement:
    """Train, rescale and compare; train with decay and look at the size of the weights."""
    dense = context.subject(mlp(context.preset))
    convolutional = context.subject(vgg(context.preset))
    parts = yield from together(
        _rescaled(dense, ("none", "layer", "batch")), _rescaled(convolutional, ("none", "batch"))
    )
    steps = None if context.preset == "smoke" else 2 * dense.steps
    small = context.subject(mlp(context.preset, depth=5, steps=steps))
    decayed = yield from decay.with_decay(small)
    effects = [effect for part in parts for effect in _effects(part)]
    effects += [effect for part in parts for effect in _beside(part)]
    effects.append(decay.effect(decayed))
    return ClaimResult(
        TEXT,
        overall(effects),
        (*(_words(part) for part in parts), decay.words(decayed)),
        tuple(effects),
        (*(rescaling_figure(part, _words(part)) for part in parts), decay.figure(decayed)),
        (rescaling_table(parts, ASKED), decay.table(decayed), subjects_table(dense, convolutional, small)),
        runs=(*(key for part in parts for key in part.keys), *decayed.keys),
    )


def _rescaled(
    subject: Subject, norms: tuple[str, ...]
) -> Generator[Sequence[TrainSpec], Sequence[Run], Rescaled]:
    end = (subject.steps,)
    measures = (Rescale(end, FACTORS, SPREADS), WeightNorms(end))
    training = Training(subject.data, subject.steps, subject.batch_size, measures=measures)
    members = [Member(seed, RATE, subject.init) for seed in range(subject.seeds)]
    networks = {norm: subject.network.with_norm(norm) for norm in norms}
    wanted = [spec for network in networks.values() for spec in specs(network, members, training)]
    runs = yield wanted
    found = outcomes(wanted, runs)
    arms: Mapping[str, tuple[Outcome, ...]] = {
        norm: tuple(found[network, member] for member in members) for norm, network in networks.items()
    }
    return Rescaled(subject, arms, FACTORS, SPREADS, tuple(dict.fromkeys(run.key for run in runs)))


def _effects(part: Rescaled) -> list[Effect]:
    trained = [outcome for outcome in part.arms["batch"] if outcome.trains]
    left_out = len(part.arms["batch"]) - len(trained)
    note = say("{count} seeds left out that do not train", count=left_out) if left_out else ""
    name = part.subject.name

    def within(words: str, unit: str, values: list[float], *, primary: bool) -> Effect:
        return difference(words, unit, values, threshold=WITHIN, rule="within", primary=primary, note=note)

    one = [max(change(o, "output", part.factor(a)) for a in ASKED) for o in trained]
    unit = [change(o, "output", part.spread(ASKED[1])) for o in trained]
    cases = [*(part.factor(a) for a in ASKED), part.spread(ASKED[1])]
    gradient = [max((change(o, "gradient", case) for case in cases), key=abs) for o in trained]
    percent = "% of the output's norm, batch norm"
    return [
        within(
            say("output changed by one factor for all weights, {subject}", subject=name),
            percent,
            one,
            primary=True,
        ),
        within(
            say("output changed by a factor for every unit, {subject}", subject=name),
            percent,
            unit,
            primary=True,
        ),
        within(
            say("gradient times the factor, against before, {subject}", subject=name),
            "% of the gradient's norm, batch norm",
            gradient,
            primary=False,
        ),
    ]


def _beside(part: Rescaled) -> list[Effect]:
    pairs = [
        (plain, with_)
        for plain, with_ in zip(part.arms["none"], part.arms["batch"], strict=True)
        if plain.trains and with_.trains
    ]
    case = part.factor(ASKED[1])
    more = [
        float(np.log(change(plain, "output", case) / max(change(with_, "output", case), 1e-6)))
        for plain, with_ in pairs
    ]
    moved = [
        100 * float(outcome.measured("weight_norms", "moved")[-1].mean())
        for outcome in part.arms["batch"]
        if outcome.trains
    ]
    return [
        ratio(
            say(
                "change of the output at factor {factor:g}, {subject}",
                factor=ASKED[1],
                subject=part.subject.name,
            ),
            "ratio, none / batch",
            more,
            threshold=TIMES,
            primary=False,
        ),
        difference(
            say("root mean square of γ − 1 after training, {subject}", subject=part.subject.name),
            "% of its start, batch norm",
            moved,
            threshold=MOVED,
            primary=False,
        ),
    ]


def _words(part: Rescaled) -> str:
    known = {"subject": part.subject.name, "low": ASKED[0], "high": ASKED[1]}
    trained = [outcome for outcome in part.arms["batch"] if outcome.trains]
    if not trained:
        return say("{subject}: no seed with batch norm trains, so that nothing was rescaled.", **known)

    def median(arm: str, of: str, cases: Sequence[int]) -> float:
        found = [max(change(o, of, case) for case in cases) for o in part.arms[arm] if o.trains]
        return float(np.median(found)) if found else float("nan")

    both = [part.factor(a) for a in ASKED]
    each = [part.spread(ASKED[1])]
    return say(
        "{subject}, medians over seeds: all hidden weights times {low:g} or {high:g} change the output by at most "
        "{one:.2g}% with {batch} and {plain:.2g}% with {none}; a factor for every unit by {unit:.2g}% and "
        "{plain_unit:.2g}%. In evaluation mode, with the running statistics of before, {batch} changes by up to "
        "{stale:.3g}%.",
        one=median("batch", "output", both),
        plain=median("none", "output", both),
        unit=median("batch", "output", each),
        plain_unit=median("none", "output", each),
        stale=median("batch", "stale", both),
        batch=ARM_NAMES["batch"],
        none=ARM_NAMES["none"],
        **known,
    )


CLAIM = Claim(TEXT, measure, takes_networks=False)
