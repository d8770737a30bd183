"""smoother-loss: with BN the loss changes less, and more predictably, along the gradient.

Source: Santurkar et al. 2018 (arXiv 1805.11604), sec. 3.1, figures 1 and 4. Expected there: a gradient
distance of about 255 without BN against 38 with it (figure 4b, at η = 0.4).
Cost on 2 cores: quick about 1 minute, full about 5.
Command: xhat study --claims smoother-loss
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xhat.lang import listed, say
from xhat.study.claim import Claim, Context, Measurement, Subject
from xhat.study.curves import ARM_NAMES, ARM_SIGNS, mean_curve, range_curve, spaced
from xhat.study.outcome import Outcome, Training, outcomes, specs
from xhat.study.result import Axis, ClaimResult, ClaimText, Effect, Figure, Panel, overall
from xhat.study.spec import Member, Network, Probe
from xhat.study.subjects import deep_linear, subjects_table, vgg
from xhat.study.verdict import MIN_PAIRS, ratio

# Committed before the first run: along the gradient, BN must be smoother by this factor.
THRESHOLD = 1.2
ARMS = ("none", "batch")
MEASURES = {
    "loss variation": "loss_variation",
    "gradient distance": "largest_distance",
    "effective β": "effective_beta",
}

TEXT = ClaimText(
    id="smoother-loss",
    title="Batch norm makes the loss landscape smoother",
    says=(
        "With BN the loss surface is smoother, so that the gradient predicts better and larger steps can "
        "be taken. The notes cite the ranges of the loss, of the gradient and of the smoothness along the "
        "gradient at each training step."
    ),
    measured=(
        "At evenly spaced steps of training, g = ∇L(w) on the current batch; then loss and gradient at "
        "w − ηg, same batch, training mode, buffers restored; η from 1/2 to 4 times the learning rate "
        "(deep linear network: 1/100 to 30). Loss variation: largest minus smallest loss. Gradient "
        "distance: largest ‖g − ∇L(w − ηg)‖. Effective β: largest ‖g − ∇L(w − ηg)‖ / (η‖g‖). Each is "
        "the median over the probes of a run, as a ratio without / with BN, paired by seed. Pairs in which "
        "a run does not train are left out of the comparison and shown apart. VGG starts from He's "
        "initialisation (preset paper: Glorot's, as in [S]), a user's network from its own. The deep linear "
        "network trains if its final loss is below half of that of always answering 0. At the first learning "
        "rate VGG has group norm as a third arm, outside the verdict: it tells BN's smoothing from any "
        "normalisation's."
    ),
    threshold=(
        f"Supported if all three ratios of every network lie above {THRESHOLD} with their whole 95% interval, at "
        "learning rate 0.1 (deep linear network: 1e-6). Where fewer than three pairs train at it, the next rate "
        "that was run decides if three train there: 0.5, then in preset paper 0.01 (deep linear network, in "
        "full and paper: 1e-7)."
    ),
    does_not_show=(
        "One direction at one batch says nothing of the surface away from it, nor that smoothness is why BN "
        "trains faster. Loss variation and gradient distance are compared at equal steps, not at equal loss: a "
        "network that has learned more has smaller gradients, so that smoother is in part faster said again. "
        "β depends on the scale of the weights: a scale-invariant network lowers it by growing them, so ‖w‖²·β "
        "is shown too. Other normalisations may smooth as well: [S] saw it with Lp norms. A collapsed network "
        "has the smoothest landscape of all."
    ),
    source="[S] Santurkar, Tsipras, Ilyas, Madry 2018, arXiv 1805.11604, sec. 3.1, fig. 4.",
    expected="[S] fig. 4b, VGG on CIFAR-10, at η = 0.4: gradient distance about 255 without BN, 38 with it.",
    cost="quick: about 1 minute; full: about 5 minutes",
    changes=(
        "The learning rate that decides had no substitute where fewer than three pairs train at it; the number "
        "of probes was cut for time. All runs were made anew on other seeds. VGG's arm with group norm came "
        "later; it decides nothing. The substitute of the deep linear network is named now; the rule is the same."
    ),
)


@dataclass(frozen=True)
class _Sweep:
    subject: Subject
    rates: tuple[float, ...]  # the first decides
    probe: Probe

    def arms(self, rate: float) -> tuple[str, ...]:
        """Return the arms at a rate; group norm is another normalisation, at the rate that decides."""
        beside = self.subject.network.name == "vgg" and rate == self.rates[0]
        return (*ARMS, "group") if beside else ARMS


def _sweeps(context: Context) -> list[_Sweep]:
    probes = {"smoke": 3, "quick": 9, "full": 15, "paper": 50}[context.preset]
    points = {"smoke": 3, "quick": 5, "full": 8, "paper": 8}[context.preset]
    found = []
    for subject in context.subjects(vgg(context.preset), deep_linear(context.preset)):
        linear = subject.network.name == "deep-linear"
        low, high = (0.01, 30.0) if linear else (0.5, 4.0)
        ratios = tuple(float(r) for r in np.geomspace(low, high, points))
        rates: tuple[float, ...] = (1e-6,) if linear else (0.1, 0.5)
        if linear and context.preset in ("full", "paper"):
            rates += (1e-7,)  # takes thousands of steps to train
        elif context.preset == "paper":
            rates += (0.01,)
        found.append(_Sweep(subject, rates, Probe(spaced(subject.steps, probes), ratios)))
    return found


def measure(context: Context) -> Measurement:
    """Train both arms at each rate, probing on the way, and compare pair by pair."""
    sweeps = _sweeps(context)
    wanted = [
        spec
        for sweep in sweeps
        for norm in sweep.arms(sweep.rates[0])
        for spec in specs(
            sweep.subject.network.with_norm(norm),
            [
                Member(seed, rate, init=sweep.subject.init)
                for seed in range(sweep.subject.seeds)
                for rate in sweep.rates
                if norm in sweep.arms(rate)
            ],
            Training(sweep.subject.data, sweep.subject.steps, sweep.subject.batch_size, probe=sweep.probe),
        )
    ]
    runs = yield wanted
    trained = outcomes(wanted, runs)
    effects: list[Effect] = []
    figures: list[Figure] = []
    found: list[str] = []
    for sweep in sweeps:
        by_rate = {rate: _arms(sweep, rate, trained) for rate in sweep.rates}
        able = [rate for rate, arms in by_rate.items() if len(_pairs(arms, "batch")) >= MIN_PAIRS]
        for rate, arms in by_rate.items():
            decides = rate == (able or sweep.rates)[0]
            ratios = {
                arm: _effects(sweep.subject, rate, arms, arm, primary=decides and arm == "batch")
                for arm in arms
                if arm != "none"
            }
            effects += [effect for several in ratios.values() for effect in several]
            figures.append(_figure(sweep, rate, arms))
            found += [*_smoothing(sweep.subject, rate, ratios), *_failures(sweep.subject, rate, arms)]
    return ClaimResult(
        TEXT,
        overall(effects),
        tuple(found),
        tuple(effects),
        tuple(figures),
        (subjects_table(*(sweep.subject for sweep in sweeps)),),
        runs=tuple(run.key for run in runs),
    )


def _log(value: float) -> float:
    return float(np.log(value)) if value > 0 else -np.inf


def _arms(
    sweep: _Sweep, rate: float, trained: dict[tuple[Network, Member], Outcome]
) -> dict[str, list[Outcome]]:
    subject = sweep.subject
    return {
        norm: [
            trained[subject.network.with_norm(norm), Member(seed, rate, subject.init)]
            for seed in range(subject.seeds)
        ]
        for norm in sweep.arms(rate)
    }


def _pairs(arms: dict[str, list[Outcome]], arm: str) -> list[tuple[Outcome, Outcome]]:
    """Return the pairs of a seed in which both networks train."""
    pairs = zip(arms["none"], arms[arm], strict=True)
    return [(plain, normed) for plain, normed in pairs if plain.trains and normed.trains]


def _value(outcome: Outcome, measure: str) -> float:
    """Return a run's median over its probes."""
    found = outcome.gradient_distance[1] if measure == "largest_distance" else getattr(outcome, measure)
    # A walk that overflows is the roughest there is, not a missing value.
    return float(np.median(np.where(np.isnan(found), np.inf, found)))


def _effects(
    subject: Subject, rate: float, arms: dict[str, list[Outcome]], arm: str, *, primary: bool
) -> list[Effect]:
    pairs = _pairs(arms, arm)
    effects = []
    for name, key in {**MEASURES, "‖w‖²·effective β": "normalised_beta"}.items():
        values = [(_value(plain, key), _value(normed, key)) for plain, normed in pairs]
        effects.append(
            ratio(
                say("{quantity}, {network}, lr {rate:g}", quantity=name, network=subject.name, rate=rate),
                say("ratio, none / {arm}", arm=ARM_SIGNS[arm]),
                [_log(plain) - _log(normed) for plain, normed in values],
                threshold=THRESHOLD,
                primary=primary and name in MEASURES,
                note=_overflow([float(np.max(pair)) for pair in values]),
            )
        )
    return effects


def _overflow(values: Sequence[float]) -> str:
    """Say in how many seeds a median walk overflows: one makes the interval the whole line."""
    count = sum(np.isinf(value) for value in values)
    if not count:
        return ""
    return say(
        "{count} of {pairs} seeds overflow at half of the probes or more: the interval is the whole line",
        count=int(count),
        pairs=len(values),
    )


def _figure(sweep: _Sweep, rate: float, arms: dict[str, list[Outcome]]) -> Figure:
    loss, distance, beta = [], [], []
    log = sweep.subject.network.is_ensemble  # the deep linear network's losses span many decades
    for norm, all_runs in arms.items():
        for trains in (True, False):
            runs = [r for r in all_runs if r.trains == trains and len(r.probe_step) == len(sweep.probe.at)]
            if not runs:
                continue
            name = (
                say("{arm} ({seeds} seeds)", arm=ARM_NAMES[norm], seeds=len(runs))
                if trains
                else say("{arm}, does not train ({seeds} seeds)", arm=ARM_NAMES[norm], seeds=len(runs))
            )
            arm = norm if trains else f"{norm}, does not train"
            x = runs[0].probe_step
            loss.append(range_curve(name, arm, x, *zip(*(r.loss_range for r in runs), strict=True), log=log))
            distance.append(
                range_curve(name, arm, x, *zip(*(r.gradient_distance for r in runs), strict=True), log=log)
            )
            beta.append(mean_curve(name, arm, x, [r.effective_beta for r in runs], log=True))
    step = Axis("training step")
    subject = sweep.subject
    low, high = sweep.probe.ratios[0], sweep.probe.ratios[-1]
    return Figure(
        id=f"smoother-loss-{subject.network.name.replace(':', '-')}-{rate:g}",
        title=say("Along the gradient: {network}, learning rate {rate:g}", network=subject.name, rate=rate),
        caption=say(
            "Bands in the first two panels: the range over η from {low:g} to {high:g} times the learning rate, "
            "{mean} over the seeds; the line is the middle of the band. Third panel: geometric mean over seeds "
            "with its 95% interval. Runs that do not train are drawn apart; runs that became infinite before "
            "the last probe are not drawn.",
            low=low,
            high=high,
            mean="geometric mean" if log else "mean",
        ),
        alt=_alt(subject, rate, arms),
        panels=(
            Panel("Loss at w − ηg", step, Axis("training loss", log=log), tuple(loss)),
            Panel(
                "Distance of gradients",
                step,
                Axis("‖g − ∇L(w − ηg)‖₂", log=log),
                tuple(distance),
            ),
            Panel("Effective β", step, Axis("effective β (1 / squared weight)", log=True), tuple(beta)),
        ),
    )


def _alt(subject: Subject, rate: float, arms: dict[str, list[Outcome]]) -> str:
    def state(norm: str) -> str:
        runs = arms[norm]
        values = [_value(r, "loss_variation") for r in runs if r.trains]
        if not values:
            return say("{count} of {runs} runs train", count=0, runs=len(runs))
        return say(
            "{count} of {runs} runs train, median loss variation {variation:.3g}",
            count=len(values),
            runs=len(runs),
            variation=float(np.median(values)),
        )

    return say(
        "Three panels over training steps for {network} at learning rate {rate:g}: {arms}.",
        network=subject.name,
        rate=rate,
        arms=listed(say("{arm}, {state}", arm=ARM_NAMES[norm], state=state(norm)) for norm in arms),
    )


def _smoothing(subject: Subject, rate: float, ratios: Mapping[str, list[Effect]]) -> list[str]:
    """Say how much rougher the plain network is than each arm that could be compared with it."""
    parts = [
        say(
            "{variation:.3g}, {distance:.3g} and {beta:.3g} times those with {arm}",
            variation=effects[0].estimate,
            distance=effects[1].estimate,
            beta=effects[2].estimate,
            arm=ARM_NAMES[arm],
        )
        for arm, effects in ratios.items()
        if effects[0].seeds
    ]
    if not parts:
        return []
    return [
        say(
            "{network}, lr {rate:g}, without normalisation: loss variation, gradient distance and effective β "
            "are {ratios}.",
            network=subject.name,
            rate=rate,
            ratios=listed(parts),
        )
    ]


def _failures(subject: Subject, rate: float, arms: dict[str, list[Outcome]]) -> list[str]:
    sentences: list[str] = []
    for norm, runs in arms.items():
        failed: Sequence[Outcome] = [r for r in runs if not r.trains]
        finite = [r for r in failed if np.isfinite(r.final_loss)]
        if not failed:
            continue
        where = say(
            "{network}, lr {rate:g}, {arm}: {failed} of {runs} runs do not train",
            network=subject.name,
            rate=rate,
            arm=ARM_NAMES[norm],
            failed=len(failed),
            runs=len(runs),
        )
        if not finite:
            sentences.append(say("{what}.", what=where))
            continue
        sentences.append(
            say(
                "{what}; their final loss is {loss:.3g} and their effective β {beta:.2g}.",
                what=where,
                loss=float(np.median([r.final_loss for r in finite])),
                beta=float(np.median([_value(r, "effective_beta") for r in finite])),
            )
        )
    return sentences


CLAIM = Claim(TEXT, measure, takes_networks=True)
