"""no-bias: biases of layers before BN may be dropped.

Source: Ioffe and Szegedy 2015 (arXiv 1502.03167), sec. 3.2: the bias is cancelled by the subtraction of
the mean, and β takes its place. Expected: no difference in accuracy.
Cost on 2 cores: quick about 1 minute, full about 8; a third of it is shared with other claims.
Command: xhat study --claims no-bias
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from xhat.lang import listed, say
from xhat.study.claim import Claim, Context, Measurement, Subject, together
from xhat.study.claims._arms import not_at_rate
from xhat.study.claims._late import late_accuracy
from xhat.study.claims._no_bias_figures import (
    ARMS,
    MARGIN,
    NUDGE,
    by_seed,
    losses,
    parameters,
    settings,
    words,
)
from xhat.study.claims._tuned import Tuned, standard, tuned
from xhat.study.outcome import Outcome, outcomes, specs
from xhat.study.result import ClaimResult, ClaimText, Effect, overall
from xhat.study.spec import Member, TrainSpec
from xhat.study.store import Run
from xhat.study.subjects import mlp, subjects_table, vgg
from xhat.study.verdict import difference

# Committed before the first run: MARGIN in _no_bias_figures.py, 1 point of test accuracy either way.
VGG_SEEDS = 12  # in full, for this claim alone: with 6 the margin was rarely to be told

TEXT = ClaimText(
    id="no-bias",
    title="Layers before batch norm need no bias",
    says="The bias may be set to 0: BN's standardisation removes the constant part, so it is not needed.",
    measured=(
        "BN networks with and without biases in the layers before BN, with the same weights, batches and "
        "learning rate, the best one of the network with biases. Accuracy is the mean of the three "
        "measurements in the second half of the training (at 59, 77 and 100% of the steps), since a single one "
        "jumps. Plain networks with and without biases "
        "stand beside, and a control: BN with biases, its initial weights changed in the sixth digit, which says "
        "what any change as small as rounding does. All biases start at 0."
    ),
    threshold=(
        f"Supported if on each network test accuracy without biases differs by less than ±{MARGIN:g} point, "
        "with the whole 95% interval."
    ),
    does_not_show=(
        "Anything about the layer behind the last BN, which keeps its bias, or about networks whose biases "
        "start elsewhere than at 0: there running averages have to follow. In exact arithmetic both "
        "trainings are the same; rounding sets them apart, and training makes a small difference grow, as it "
        "would for any other cause. The difference of single seeds is therefore that of two runs of one network."
    ),
    source="[IS] Ioffe, Szegedy 2015, arXiv 1502.03167, sec. 3.2.",
    expected="[IS]: the bias can be ignored; no number.",
    cost="quick: about 1 minute; full: about 8 minutes; a third of it is shared with other claims",
    changes=(
        "A control was added outside the verdict, to tell what rounding alone does. In full VGG has "
        f"{VGG_SEEDS} seeds in place of 6, from which an equivalence within {MARGIN:g} point would have been "
        "found in only 22 to 46% of cases though it held; the learning rate is chosen with the usual seeds, three of "
        "them and not two, and the margin is as before."
    ),
)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """What was trained of one network: by arm, one a seed, with and without biases."""

    subject: Subject
    arms: Mapping[str, Tuned]  # with biases; more seeds than have part in the choice of the rate
    pairs: Mapping[str, Sequence[tuple[Outcome, Outcome]]]
    keys: tuple[str, ...]


def measure(context: Context) -> Measurement:
    """Train with and without biases at the same rate and compare accuracy."""
    usual = context.subjects(vgg(context.preset), mlp(context.preset))
    subjects = [_with_more_seeds(context, subject) for subject in usual]
    seen = yield from together(*map(_train, usual, subjects))
    effects = [_effect(each, arm) for each in seen for arm in ARMS]
    shown = [(each.subject, each.pairs) for each in seen]
    points = {(each.subject.name, arm): _points(each.pairs[arm]) for each in seen for arm in ARMS}
    return ClaimResult(
        TEXT,
        overall(effects),
        tuple(words(*each, points) for each in shown),
        tuple(effects),
        (by_seed(shown, points), losses(shown)),
        (parameters(subjects), settings(shown, points), subjects_table(*subjects)),
        runs=tuple(dict.fromkeys(key for each in seen for key in each.keys)),
    )


def _with_more_seeds(context: Context, subject: Subject) -> Subject:
    more = context.preset == "full" and context.seeds is None and subject.network.name == "vgg"
    return replace(subject, seeds=VGG_SEEDS) if more else subject


def _train(usual: Subject, subject: Subject) -> Generator[Sequence[TrainSpec], Sequence[Run], Seen]:
    """Choose the rates as every claim does, with the usual seeds, and train all seeds at them."""
    arms = {arm: subject.network.with_norm(arm) for arm in ("batch", "none")}
    best, keys = yield from tuned(usual, arms)
    rest = [
        (network, Member(seed, best[arm].rate, subject.init))
        for arm, network in arms.items()
        for seed in range(usual.seeds, subject.seeds)
    ]
    others = {
        "batch": (arms["batch"].with_options(bias=0), Member(0, best["batch"].rate, subject.init)),
        "none": (arms["none"].with_options(bias=0), Member(0, best["none"].rate, subject.init)),
        "control": (arms["batch"], Member(0, best["batch"].rate, subject.init, scale=1 + NUDGE)),
    }
    seeds = range(subject.seeds)
    wanted = [spec for network, member in rest for spec in specs(network, [member], standard(subject))] + [
        spec
        for network, member in others.values()
        for spec in specs(network, [replace(member, seed=seed) for seed in seeds], standard(subject))
    ]
    runs = yield wanted
    found = outcomes(wanted, runs)
    with_biases = {
        arm: replace(
            best[arm],
            outcomes=(*best[arm].outcomes, *(found[case] for case in rest if case[0] == network)),
        )
        for arm, network in arms.items()
    }
    pairs = {
        arm: [
            (with_biases[network.norm].outcomes[seed], found[network, replace(member, seed=seed)])
            for seed in seeds
        ]
        for arm, (network, member) in others.items()
    }
    return Seen(subject, with_biases, pairs, (*keys, *(run.key for run in runs)))


def _points(pairs: Sequence[tuple[Outcome, Outcome]]) -> Floats:
    """Return accuracy without minus with biases, one a seed; NaN where neither network trains.

    Where only one of them trains, that is a difference like any other.
    """
    return np.array(
        [
            late_accuracy(bare) - late_accuracy(usual) if usual.trains or bare.trains else np.nan
            for usual, bare in pairs
        ]
    )


def _effect(seen: Seen, arm: str) -> Effect:
    points = _points(seen.pairs[arm])
    known = np.isfinite(points)
    network = seen.subject.name
    name = {
        "batch": say("test accuracy with BN, {network}", network=network),
        "none": say("test accuracy without normalisation, {network}", network=network),
        "control": say("test accuracy with BN and biases, weights nudged, {network}", network=network),
    }[arm]
    left_out = int((~known).sum())
    norm = "none" if arm == "none" else "batch"
    notes = [not_at_rate({norm: seen.arms[norm]})]
    if left_out:
        notes.append(say("{count} seeds left out, where neither trains", count=left_out))
    return difference(
        name,
        "points, nudged − not" if arm == "control" else "points, without − with biases",
        list(points[known]),
        threshold=MARGIN,
        rule="within",
        primary=arm == "batch",
        note=listed(filter(None, notes)),
    )


CLAIM = Claim(TEXT, measure, takes_networks=False)
