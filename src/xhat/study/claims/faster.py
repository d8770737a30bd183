"""faster: with BN training is much faster, and works well.

Source: Ioffe and Szegedy 2015 (arXiv 1502.03167), sec. 4.2.2 and figure 3. Expected there: Inception
reaches 72.2% after 31.0 million steps, with BN alone (BN-Baseline) after 13.3 million, with BN, five times
the rate and the other changes of sec. 4.2.1 (BN-x5) after 2.1 million.
Cost on 2 cores: quick about 1.5 minutes, full about 8; most of it is shared with other claims.
Command: xhat study --claims faster
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from xhat.lang import listed, say
from xhat.study.claim import Claim, Context, Measurement, Subject, together
from xhat.study.claims._arms import on_rates
from xhat.study.claims._faster_figures import figure, table, words
from xhat.study.claims._speed import BELOW, best, steps_of
from xhat.study.claims._tuned import Tuned, evaluated, tuned
from xhat.study.curves import ARM_NAMES, ARM_SIGNS
from xhat.study.outcome import Outcome
from xhat.study.result import ClaimResult, ClaimText, Effect, overall
from xhat.study.spec import Network
from xhat.study.subjects import mlp, resnet, subjects_table, vgg
from xhat.study.verdict import difference, ratio

# Committed before the first run.
FASTER = 2.0  # times as many steps without BN to the same test accuracy
BETTER = 0.0  # points of best test accuracy
# BELOW in _speed.py, 1 point: how far below the plain network's best accuracy the target lies.

TEXT = ClaimText(
    id="faster",
    title="Batch norm makes training much faster, and works well",
    says="BN greatly raises the speed of training, makes training easier, and works well.",
    measured=(
        "Each arm at its own best learning rate of one grid, by training loss. The target of a seed is the "
        f"plain network's best test accuracy less {BELOW:g} point; the effect is the ratio of the steps "
        "without and with BN until test accuracy first reaches it, interpolated between measurements. A "
        "network that never reaches it counts as taking twice the budget. Then the best test accuracy of "
        "both, over pairs that both train; over all pairs it stands beside, outside the verdict. So do group "
        "norm (VGG), layer norm (MLP), and seconds of batches and steps alone, without the measurements."
    ),
    threshold=(
        f"Supported if the ratio of steps lies above {FASTER:g} and BN's best accuracy above the plain "
        f"network's (difference above {BETTER:g} points) on each network, each with the whole 95% interval."
    ),
    does_not_show=(
        "How it is with schedules, momentum or Adam. Accuracy is measured in evaluation mode, where BN uses "
        "running averages that lag behind in the first steps: that counts against BN. The best of several "
        "measurements lies a little above what a network keeps, in all arms alike. Seconds hang on the "
        "machine and on what else it does; members of an ensemble are timed together, one timing an arm. The "
        "factor of 15 of BN-x5 in [IS] is not that of BN alone: that network also went without dropout and "
        "local response normalisation, with less weight decay, a rate that fell faster, better shuffled and "
        "less distorted images."
    ),
    source="[IS] Ioffe, Szegedy 2015, arXiv 1502.03167, sec. 4.2.2, fig. 3.",
    expected=(
        "[IS], steps to 72.2%: 31.0 million without BN, 13.3 million with BN and nothing else changed "
        "(BN-Baseline), 2.1 million with BN, five times the rate and the other changes of sec. 4.2.1 (BN-x5)."
    ),
    cost="quick: about 1.5 minutes; full: about 8 minutes; most of it is shared with other claims",
    changes=(
        "Pairs in which an arm does not train are left out of the best accuracy, which presupposes training; "
        "over all pairs it is shown beside. Seconds are those of training alone. In full three of the six seeds "
        "of VGG and ResNet choose their rates, not two."
    ),
)

ONE_TIMING = "one timing an arm; the interval is that of the steps only"
BESIDE = {"vgg": "group", "mlp": "layer"}  # another normalisation, by network


def measure(context: Context) -> Measurement:
    """Train every arm at its own best rate and see when it reaches the plain network's accuracy."""
    subjects = context.subjects(*(make(context.preset) for make in (vgg, resnet, mlp)))
    trained = yield from together(*(tuned(subject, _networks(subject)) for subject in subjects))
    effects: list[Effect] = []
    for subject, (arms, _) in zip(subjects, trained, strict=True):
        for arm in arms:
            if arm != "none":
                effects += _effects(subject, arms, arm)
    pairs = [(subject, arms) for subject, (arms, _) in zip(subjects, trained, strict=True)]
    return ClaimResult(
        TEXT,
        overall(effects),
        tuple(sentence for subject, arms in pairs for sentence in words(subject, arms)),
        tuple(effects),
        (figure(pairs),),
        (*(table(subject, arms) for subject, arms in pairs), subjects_table(*subjects)),
        runs=tuple(dict.fromkeys(key for _, keys in trained for key in keys)),
    )


def _networks(subject: Subject) -> Mapping[str, Network]:
    norms = ["none", "batch"]
    if not subject.is_users:
        norms += [norm for name, norm in BESIDE.items() if name == subject.network.name]
    return {norm: subject.network.with_norm(norm) for norm in norms}


def _effects(subject: Subject, arms: Mapping[str, Tuned], arm: str) -> list[Effect]:
    """Compare pair by pair; what is not known never speaks for the normalised network.

    A plain network that does not train sets no target. Where it stands on its target at the first
    measurement already, its steps are known only from above.
    """
    first = evaluated(subject.steps)[0]
    steps = {name: steps_of(arms, name) for name in ("none", arm)}
    known = np.array([plain.trains for plain in arms["none"].outcomes]) & (steps["none"] > first)
    never = ~np.isfinite(steps[arm])
    taken = np.where(never, 2 * subject.steps, steps[arm])
    with np.errstate(invalid="ignore"):
        logs = np.log(steps["none"]) - np.log(taken)
    pairs = list(zip(arms["none"].outcomes, arms[arm].outcomes, strict=True))
    per_step = [math.log(plain.training_seconds / other.training_seconds) for plain, other in pairs]
    notes = [on_rates({name: arms[name] for name in ("none", arm)})]
    if not known.all():
        notes.append(
            say(
                "{count} seeds left out: plain does not train, or is at its target when first measured",
                count=int((~known).sum()),
            )
        )
    if (never & known).any():
        notes.append(
            say(
                "{count} seeds of {arm} never reach the target and count as twice the budget",
                count=int((never & known).sum()),
                arm=ARM_NAMES[arm],
            )
        )
    unit = say("ratio, none / {arm}", arm=ARM_SIGNS[arm])
    at_least = bool((steps[arm][known] <= first).any())
    return [
        ratio(
            say("steps to the plain network's accuracy, {network}", network=subject.name),
            unit,
            list(logs[known]),
            threshold=FASTER,
            primary=arm == "batch",
            at_least=at_least,
            note=listed(filter(None, notes)),
        ),
        *_best_accuracies(subject, pairs, arm),
        ratio(
            say("seconds to the plain network's accuracy, {network}", network=subject.name),
            unit,
            list((logs + per_step)[known]),
            threshold=1.0,
            primary=False,
            at_least=at_least,
            note=ONE_TIMING if subject.network.is_ensemble else "",
        ),
    ]


def _best_accuracies(subject: Subject, pairs: Sequence[tuple[Outcome, Outcome]], arm: str) -> list[Effect]:
    """Compare best accuracy over pairs that both train; beside it over all, where that is not the same."""
    gains = np.array([best(other) - best(plain) for plain, other in pairs])
    both = np.array([plain.trains and other.trains for plain, other in pairs])
    unit = say("points, {arm} − none", arm=ARM_SIGNS[arm])
    left_out = int((~both).sum())
    found = [
        difference(
            say("best test accuracy, {network}", network=subject.name),
            unit,
            list(gains[both]),
            threshold=BETTER,
            primary=arm == "batch",
            note=say("{count} seeds left out, where an arm does not train", count=left_out)
            if left_out
            else "",
        )
    ]
    if left_out:
        found.append(
            difference(
                say("best test accuracy, all seeds, {network}", network=subject.name),
                unit,
                list(gains),
                threshold=BETTER,
                primary=False,
            )
        )
    return found


CLAIM = Claim(TEXT, measure, takes_networks=True)
