"""limits-norms: other normalisations of a batch do as well as BN.

Source: [S] Santurkar et al. 2018 (arXiv 1805.11604), sec. 3.3 and appendix: normalising by the L1 or the
L∞ norm in place of the standard deviation leaves distributions that are no longer Gaussian-like. Ours
departs from its scheme: see LpNorm.
Expected there: all of them do about as well as BN, in deep linear networks L1 even better.
Cost on 2 cores: quick about 2 minutes, full about 9; half of it is shared with other claims.
Command: xhat study --claims limits-norms
"""

from collections.abc import Mapping, Sequence

import numpy as np

from xhat.lang import listed, say
from xhat.study.claim import Claim, Context, Measurement, Subject, together
from xhat.study.claims._arms import NAMES, arms_table, left_out, on_rates, say_arms, trained
from xhat.study.claims._tuned import Tuned, accuracy_curve, evaluated, tuned
from xhat.study.curves import mean_curve
from xhat.study.result import Axis, ClaimResult, ClaimText, Curve, Effect, Figure, Panel, overall
from xhat.study.spec import Network
from xhat.study.subjects import mlp, subjects_table, vgg
from xhat.study.verdict import difference

# Committed before the first run.
WITHIN = 2.0  # points of test accuracy: what counts as no difference from BN
GAIN = 2.0  # points of test accuracy over the plain network; outside the verdict
LP = ("l1", "linf")
BESIDE = {"vgg": "group", "mlp": "layer"}  # a normalisation without the batch, by network

TEXT = ClaimText(
    id="limits-norms",
    title="Normalising by other norms of the batch does as well",
    says=(
        "Not in the notes, but in the paper they cite: BN's effect is not that it keeps distributions "
        "Gaussian-like, since dividing by the L1 or the L∞ norm in place of the standard deviation does as "
        "well."
    ),
    measured=(
        "The batch's mean is taken off and the rest divided by its mean size (L1), its root mean square "
        "(BN, L2) or its largest size (L∞), per unit or channel. Each arm at its own best learning rate of "
        "one grid, by training loss; final test accuracy, paired by seed. Beside them a normalisation that "
        "does not look at the batch: group norm (VGG), layer norm (MLP); and the plain network."
    ),
    threshold=(
        f"Supported if the test accuracies of L1 and of L∞ each lie within {WITHIN:g} points of BN's on each "
        "network, with the whole 95% interval (equivalence)."
    ),
    does_not_show=(
        "What the distributions look like. Nor how it is in deep linear networks, which [S] have too, or "
        "after long training. Dividing by another norm also changes the scale of what comes out, which γ and "
        "the learning rate have to make good. The scheme is not [S]'s to the letter, which divides by the "
        "average ℓp norm as it is before the mean is shifted: here the norm is that of the centred values, as "
        "BN's standard deviation is."
    ),
    source="[S] Santurkar et al. 2018, arXiv 1805.11604, sec. 3.3 and appendix.",
    expected="[S]: L1 and L∞ do about as well as BN; in deep linear networks L1 does better.",
    cost="quick: about 2 minutes; full: about 9 minutes; half of it is shared with other claims",
    changes="Before the final runs: in full three of the VGG's six seeds choose its rates, not two.",
)


def measure(context: Context) -> Measurement:
    """Train every arm at its own best rate and compare final accuracies with BN's."""
    subjects = [context.subject(make(context.preset)) for make in (vgg, mlp)]
    found = yield from together(*(tuned(subject, _networks(subject)) for subject in subjects))
    pairs = [(subject, arms) for subject, (arms, _) in zip(subjects, found, strict=True)]
    effects = [effect for subject, arms in pairs for effect in _effects(subject, arms)]
    return ClaimResult(
        TEXT,
        overall(effects),
        tuple(_words(subject, arms) for subject, arms in pairs),
        tuple(effects),
        (_figure(pairs), _distance_figure(pairs)),
        (
            *(
                arms_table(say("{network}: each arm at its best rate", network=subject.name), arms)
                for subject, arms in pairs
            ),
            subjects_table(*subjects),
        ),
        runs=tuple(dict.fromkeys(key for _, keys in found for key in keys)),
    )


def _networks(subject: Subject) -> dict[str, Network]:
    norms = ("none", "batch", *LP, BESIDE[subject.network.name])
    return {norm: subject.network.with_norm(norm) for norm in norms}


def _effects(subject: Subject, arms: Mapping[str, Tuned]) -> list[Effect]:
    """Compare each arm with BN where BN trains, and with the plain network; untrained arms count."""
    kept = trained(arms["batch"])
    effects = []
    for arm in (*LP, BESIDE[subject.network.name]):
        notes = [left_out(int((~kept).sum()), "batch"), on_rates({a: arms[a] for a in (arm, "batch")})]
        effects.append(
            difference(
                say("test accuracy, {arm} against BN, {network}", arm=NAMES[arm], network=subject.name),
                say("points, {arm} − batch norm", arm=NAMES[arm]),
                list((arms[arm].accuracy - arms["batch"].accuracy)[kept]),
                threshold=WITHIN,
                rule="within",
                primary=arm in LP,
                note=listed([note for note in notes if note], "; "),
            )
        )
    for arm, found in arms.items():
        if arm != "none":
            effects.append(
                difference(
                    say("test accuracy, {arm} against none, {network}", arm=NAMES[arm], network=subject.name),
                    say("points, {arm} − no normalisation", arm=NAMES[arm]),
                    list(found.accuracy - arms["none"].accuracy),
                    threshold=GAIN,
                    primary=False,
                )
            )
    return effects


def _figure(pairs: Sequence[tuple[Subject, Mapping[str, Tuned]]]) -> Figure:
    panels = []
    for subject, arms in pairs:
        curves = [
            mean_curve(
                NAMES[arm],
                arm,
                evaluated(subject.steps),
                [accuracy_curve(outcome) for outcome in found.outcomes],
            )
            for arm, found in arms.items()
        ]
        panels.append(
            Panel(subject.name, Axis("training step", log=True), Axis("test accuracy (%)"), tuple(curves))
        )
    return Figure(
        id="limits-norms",
        title="Test accuracy over training, each arm at its own best learning rate",
        caption="Mean over seeds; bands: 95% intervals.",
        alt=listed([_words(subject, arms) for subject, arms in pairs], " "),
        panels=tuple(panels),
    )


def _distance_figure(pairs: Sequence[tuple[Subject, Mapping[str, Tuned]]]) -> Figure:
    panels = []
    for subject, arms in pairs:
        at = evaluated(subject.steps)
        bn = [accuracy_curve(outcome) for outcome in arms["batch"].outcomes]
        curves = [
            mean_curve(
                NAMES[arm],
                arm,
                at,
                [accuracy_curve(o) - b for o, b in zip(arms[arm].outcomes, bn, strict=True)],
            )
            for arm in (*LP, BESIDE[subject.network.name])
        ]
        ends = (float(at[0]), float(at[-1]))
        curves += [
            Curve("margin", "margin", ends, (margin, margin), dashed=True) for margin in (WITHIN, -WITHIN)
        ]
        y = Axis("test accuracy less BN's (points)")
        panels.append(Panel(subject.name, Axis("training step", log=True), y, tuple(curves)))
    return Figure(
        id="limits-norms-distance",
        title="How far each arm's test accuracy lies from BN's",
        caption=say(
            "Mean paired difference over seeds; bands: 95% intervals. Dashed: the margin of {within:g} "
            "points, which holds at the end of training.",
            within=WITHIN,
        ),
        alt=listed([_words(subject, arms) for subject, arms in pairs], " "),
        panels=tuple(panels),
    )


def _words(subject: Subject, arms: Mapping[str, Tuned]) -> str:
    parts = [
        say(
            "{arm} {accuracy:.1f}% at rate {rate:g}",
            arm=NAMES[arm],
            accuracy=float(np.mean(found.accuracy)),
            rate=found.rate,
        )
        for arm, found in arms.items()
    ]
    untrained = [arm for arm, found in arms.items() if not trained(found).all()]
    if untrained:
        parts.append(say("seeds that do not train in: {arms}", arms=say_arms(untrained)))
    return say(
        "{network}, final test accuracy, mean over seeds: {parts}.",
        network=subject.name,
        parts=listed(parts, "; "),
    )


CLAIM = Claim(TEXT, measure, takes_networks=False)
