"""limits-noise: with noise that makes its distributions unstable, a network with BN still trains well.

Source: Santurkar et al. 2018 (arXiv 1805.11604), sec. 2.1, figure 2, Alg. 1. Expected there: VGG with noisy
BN trains about as well as with BN and better than without, with less stable layer inputs than without.
Cost on 2 cores: quick about 1 minute, full about 6; most of it is shared with other claims.
Command: xhat study --claims limits-noise
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from xhat.lang import listed, say
from xhat.study.claim import Claim, Context, Measurement, Subject, together
from xhat.study.claims._arms import on_rates, recalibrated
from xhat.study.claims._drift import STILL, Movement
from xhat.study.claims._noise_figures import (
    ARMS,
    FLOOR,
    NAMES,
    NOISY,
    RECORDS,
    figure,
    mean_drift,
    table,
    words,
)
from xhat.study.claims._tuned import Tuned, standard, tuned
from xhat.study.curves import spaced
from xhat.study.measures import Recalibrated
from xhat.study.outcome import Training, outcomes, specs
from xhat.study.result import ClaimResult, ClaimText, Effect, overall
from xhat.study.spec import Member, Record, TrainSpec
from xhat.study.store import Run
from xhat.study.subjects import mlp, subjects_table, vgg
from xhat.study.verdict import difference, ratio

# Committed before the first run.
BETTER = 0.0  # points of test accuracy, noisy BN − none
ALIKE = 3.0  # points of test accuracy between noisy BN and BN
LESS_STABLE = 1.0  # times the plain network's drift

TEXT = ClaimText(
    id="limits-noise",
    title="Unstable distributions do not spoil what batch norm brings",
    says=(
        "BN does not help by making the distributions of layer inputs stable: with noise behind it that makes "
        "them less stable than in the plain network it still trains well."
    ),
    measured=(
        "Behind every BN layer noise shifts and scales each unit anew at every training step ([S], Alg. 1). "
        "Each arm at its own best learning rate. Test accuracy is measured without noise, and with BN, noisy "
        "or not, with running statistics of 512 training samples without noise, since noisy BN gathered those "
        "of the training under noise; with those of the training it is shown beside. Accuracy against the "
        "plain network is that of pairs that both train; over all it is shown beside. Drift on the MLP, to "
        "check that the noise makes distributions unstable: Wasserstein-1 distance of each unit's distribution "
        f"at a layer's input between neighbouring ones of {RECORDS} records of the training, on a fixed batch, "
        "over the pooled standard deviation; all layers but the first, mean over the training."
    ),
    threshold=(
        f"Supported if on each network noisy BN's test accuracy exceeds the plain network's (by over "
        f"{BETTER:g} points) and differs from BN's by less than ±{ALIKE:g} points, and, as a precondition, "
        f"on the MLP its drift exceeds the plain network's (ratio above {LESS_STABLE:g}), each with the whole "
        "95% interval."
    ),
    does_not_show=(
        "That stable distributions would not help: the noise is one kind of instability, and "
        "it may also act as regularisation. Pairs that do not train are left out of the drift. The drift of "
        "noisy BN is no finding but a check of what was done to it: records are made in training mode, where "
        "noise is drawn anew, so that an untrained noisy network whose weights stand still drifts by about "
        f"{FLOOR:g} standard deviations a record already, however close the records, while the other arms' "
        "drift shrinks with the steps between them."
    ),
    source="[S] Santurkar et al. 2018, arXiv 1805.11604, sec. 2.1, fig. 2, Alg. 1.",
    expected="[S] fig. 2: noisy BN trains nearly as BN does, and faster than the plain network.",
    cost="quick: about 1 minute; full: about 6 minutes; most of it is shared with other claims",
    changes=(
        "BN too gets running statistics estimated anew, as noisy BN did alone before; the pair with those of "
        "the training is shown beside. Pairs in which an arm does not train are left out of the accuracy "
        "against the plain network; over all pairs it is shown beside. In full three of the six seeds of VGG "
        "choose its rates, not two."
    ),
)


@dataclass(frozen=True)
class Seen:
    """What was trained of one network."""

    subject: Subject
    arms: Mapping[str, Tuned]  # those with BN end with running statistics estimated anew
    drift: Mapping[str, Sequence[Movement]]  # by arm, one a seed; empty where none was recorded
    keys: tuple[str, ...]


def measure(context: Context) -> Measurement:
    """Train the three arms, and record how the layer inputs of the MLP move."""
    subjects = context.subjects(vgg(context.preset), mlp(context.preset))
    seen = yield from together(*(_train(subject) for subject in subjects))
    effects = [effect for each in seen for effect in (*_accuracies(each), *_drifts(each))]
    shown = [(each.subject, each.arms, each.drift) for each in seen]
    return ClaimResult(
        TEXT,
        overall(effects),
        tuple(sentence for each in shown for sentence in words(*each)),
        tuple(effects),
        (figure(shown),),
        (*(table(*each) for each in shown), subjects_table(*subjects)),
        runs=tuple(dict.fromkeys(key for each in seen for key in each.keys)),
    )


def _train(subject: Subject) -> Generator[Sequence[TrainSpec], Sequence[Run], Seen]:
    usual = standard(subject)
    noisy = replace(usual, measures=(*usual.measures, Recalibrated((subject.steps,))))
    (arms, keys), (more, others) = yield from together(
        tuned(subject, {arm: subject.network.with_norm(arm) for arm in ARMS[:2]}),
        tuned(subject, {NOISY: subject.network.with_norm(NOISY)}, training=noisy),
    )
    clean, again = yield from _recalibrated(subject, arms["batch"], noisy)
    arms, keys = {**arms, **more, "batch": clean}, (*keys, *others, *again)
    if not subject.network.is_ensemble:
        return Seen(subject, arms, {}, keys)
    drift, recorded = yield from _record(subject, arms)
    return Seen(subject, arms, drift, (*keys, *recorded))


def _recalibrated(
    subject: Subject, batch: Tuned, training: Training
) -> Generator[Sequence[TrainSpec], Sequence[Run], tuple[Tuned, tuple[str, ...]]]:
    """Train BN at its best rate again, with its running statistics estimated anew at the end."""
    network = subject.network.with_norm("batch")
    members = [Member(seed, batch.rate, subject.init) for seed in range(subject.seeds)]
    wanted = specs(network, members, training)
    runs = yield wanted
    found = outcomes(wanted, runs)
    again = tuple(found[network, member] for member in members)
    return replace(batch, outcomes=again), tuple(run.key for run in runs)


def _record(
    subject: Subject, arms: Mapping[str, Tuned]
) -> Generator[Sequence[TrainSpec], Sequence[Run], tuple[dict[str, list[Movement]], tuple[str, ...]]]:
    """Train the arms at their best rates again, with records of what enters the layers."""
    depth = int(dict(subject.network.options)["depth"])
    layers = (*(f"hidden.{place}.0" for place in range(1, depth)), "output")
    training = Training(
        subject.data,
        subject.steps,
        subject.batch_size,
        record=Record(spaced(subject.steps, RECORDS), batch=128, layers=layers),
    )
    watched = {"at the next layer's input": tuple((layer, "input") for layer in layers)}
    wanted = {
        arm: specs(
            subject.network.with_norm(arm),
            [Member(seed, arms[arm].rate, subject.init) for seed in range(subject.seeds)],
            training,
        )
        for arm in ARMS
    }
    flat = [spec for group in wanted.values() for spec in group]
    runs = yield flat
    found = {(n.norm, member): outcome for (n, member), outcome in outcomes(flat, runs).items()}
    moved = {
        arm: [
            Movement(found[arm, Member(seed, arms[arm].rate, subject.init)], 1, watched)
            for seed in range(subject.seeds)
        ]
        for arm in ARMS
    }
    return moved, tuple(run.key for run in runs)


def _accuracies(seen: Seen) -> list[Effect]:
    name, arms = seen.subject.name, seen.arms
    clean = {arm: recalibrated(arms[arm]) for arm in ARMS}
    trains = {arm: np.array([outcome.trains for outcome in arms[arm].outcomes]) for arm in ARMS}
    both = trains[NOISY] & trains["none"]
    one = trains[NOISY] | trains["batch"]
    neither = int((~one).sum())
    against_plain = partial(difference, unit="points, noisy BN − none", threshold=BETTER)
    alike = partial(difference, unit="points, noisy BN − batch", threshold=ALIKE, rule="within")
    found = [
        against_plain(
            say("test accuracy of noisy BN against the plain network, {network}", network=name),
            values=list((clean[NOISY] - clean["none"])[both]),
            note=_joined(_on_rates(arms, "none"), _an_arm_fails(int((~both).sum()))),
        ),
        alike(
            say("test accuracy of noisy BN against BN, {network}", network=name),
            values=list((clean[NOISY] - clean["batch"])[one]),
            note=_joined(
                _on_rates(arms, "batch"),
                say("{count} seeds left out, where neither trains", count=neither) if neither else "",
            ),
        ),
        against_plain(
            say(
                "with the training's running statistics, noisy BN against the plain network, {network}",
                network=name,
            ),
            values=list((arms[NOISY].accuracy - arms["none"].accuracy)[both]),
            primary=False,
        ),
        alike(
            say("with the training's running statistics, noisy BN against BN, {network}", network=name),
            values=list((arms[NOISY].accuracy - arms["batch"].accuracy)[one]),
            primary=False,
        ),
    ]
    if not both.all():
        found.append(
            against_plain(
                say("over all seeds, noisy BN against the plain network, {network}", network=name),
                values=list(clean[NOISY] - clean["none"]),
                primary=False,
            )
        )
    return found


def _on_rates(arms: Mapping[str, Tuned], other: str) -> str:
    return on_rates({arm: arms[arm] for arm in (NOISY, other)}, NAMES)


def _joined(*notes: str) -> str:
    return listed(filter(None, notes))


def _an_arm_fails(count: int) -> str:
    return say("{count} seeds left out, where an arm does not train", count=count) if count else ""


def _drifts(seen: Seen) -> list[Effect]:
    if not seen.drift:
        return []
    name = seen.subject.name
    moves = say("drift of the layers' inputs, {network}", network=name)
    return [
        _drift(
            say("precondition: drift of the layers' inputs, {network}", network=name),
            seen,
            NOISY,
            "none",
            "ratio, noisy BN / none",
            primary=True,
        ),
        _drift(moves, seen, NOISY, "batch", "ratio, noisy BN / batch"),
        _drift(moves, seen, "batch", "none", "ratio, batch / none"),
    ]


def _drift(name: str, seen: Seen, arm: str, other: str, unit: str, *, primary: bool = False) -> Effect:
    pairs = list(zip(seen.drift[arm], seen.drift[other], strict=True))
    drifts = [(mean_drift(a), mean_drift(b)) for a, b in pairs if a.outcome.trains and b.outcome.trains]
    logs = [float(np.log(max(a, STILL) / max(b, STILL))) for a, b in drifts if np.isfinite([a, b]).all()]
    left_out = len(pairs) - len(logs)
    return ratio(
        name,
        unit,
        logs,
        threshold=LESS_STABLE,
        primary=primary,
        note=_an_arm_fails(left_out),
    )


CLAIM = Claim(TEXT, measure, takes_networks=False)
