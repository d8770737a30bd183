"""regularises: BN regularises, so that there is less need for dropout.

Source: Ioffe and Szegedy 2015 (arXiv 1502.03167), sec. 3.4 and 4.2.1; Luo et al. 2018, Towards Understanding
Regularization in Batch Normalization (arXiv 1809.00846); ghost batches: Hoffer et al. 2017
(arXiv 1705.08741); dropout before BN: Li et al. 2018 (arXiv 1801.05134).
Expected there: [IS] take dropout away and reach a higher accuracy; no number for dropout alone is known.
Cost on 2 cores: quick about 1 minute, full about 2.
Command: xhat study --claims regularises
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from xhat.lang import listed, say
from xhat.study.claim import Claim, Context, Measurement, Subject, together
from xhat.study.claims._arms import NAMES, arms_table, on_rates, recalibrated, trained
from xhat.study.claims._dropout_gain import gain
from xhat.study.claims._equal_loss import at_loss, common_loss, path
from xhat.study.claims._regularises_figures import figure, with_dropout, words
from xhat.study.claims._tuned import Tuned, evaluated, tuned
from xhat.study.measures import Evaluate, Recalibrated
from xhat.study.outcome import Training
from xhat.study.result import ClaimResult, ClaimText, Effect, overall
from xhat.study.spec import Network
from xhat.study.subjects import mlp, subjects_table
from xhat.study.verdict import difference

# Committed before the first run.
BETTER = 1.0  # points of test accuracy at equal training loss, batch − none
LESS_NEED = 1.0  # points by which dropout gains more without BN than with it
SAMPLES = 1000  # of training: few, so that there is something to overfit
BATCH = 128
RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
SHARES = (0.0, 0.1, 0.5)  # of units that dropout drops
GHOSTS = ("ghost8", "ghost32")

TEXT = ClaimText(
    id="regularises",
    title="Batch norm regularises: less overfitting, less need for dropout",
    says="BN has a regularising effect: one need not lean on dropout so much, and there is less overfitting.",
    measured=(
        f"{SAMPLES:,} training samples, few enough to be overfitted. Each arm at its own best learning rate of "
        f"{RATES[0]:g} to {RATES[-1]:g}, by training loss. Equal training loss: loss on the training samples "
        "in evaluation mode is measured along the way; of each seed the least training loss that both arms "
        "reach is where their test accuracies are compared, interpolated between measurements, so that "
        "reaching a lower loss sooner is no advantage. Dropout of 0.1 and 0.5 behind every hidden layer: what "
        "the arm's best share of the three gains over none, the share of a seed chosen by the mean test "
        "accuracy of the other seeds. The same with running statistics estimated anew without dropout, from 512 "
        "training samples, stands beside, outside the verdict. Ghost batches of 8 and 32 beside the whole batch of "
        f"{BATCH}, and layer norm, outside the verdict. A user's network: equal training loss only, at its "
        "usual batch size."
    ),
    threshold=(
        f"Supported if BN's test accuracy at equal training loss exceeds the plain network's by more than "
        f"{BETTER:g} point, and dropout gains more than {LESS_NEED:g} point more without BN than with it, each "
        "with the whole 95% interval."
    ),
    does_not_show=(
        "One small data set and one MLP. A network that generalises better at equal training loss may do so "
        "because it takes another way, not because BN's noise regularises; ghost batches tell more about the "
        "noise. Both arms are compared at their own best rates for training loss, and larger rates regularise "
        "too. Dropout before BN shifts variances: running statistics gathered under dropout are not those of "
        "evaluation, where it is off (Li et al. 2018), so that dropout may gain less with BN for this reason "
        "alone; the gain with statistics estimated anew tells. The best of the three shares includes 0, so that "
        "harm is cut off at about 0: where dropout harms both arms, the gains hardly differ, whatever the harm."
    ),
    source=(
        "[IS] Ioffe, Szegedy 2015, arXiv 1502.03167, sec. 3.4; Luo et al. 2018, arXiv 1809.00846; Hoffer et "
        "al. 2017, arXiv 1705.08741; Li et al. 2018, arXiv 1801.05134."
    ),
    expected="[IS]: dropout can be left out or lowered with BN without more overfitting.",
    cost="quick: about 1 minute; full: about 2 minutes",
    changes=(
        "After a first run of quick, in which networks had hardly begun to overfit, full trains longer (1,000 "
        "steps, not 600) and narrower networks (64 units, not 128). Before the final runs the grid of rates was "
        "extended to 3, and the gain of dropout with recalibrated statistics was added outside the verdict. "
        "Thresholds stayed."
    ),
)


def measure(context: Context) -> Measurement:
    """Train all arms on few samples; compare at equal training loss, and what dropout gains."""
    (subject,) = (_few(s, context.preset) for s in context.subjects(mlp(context.preset, depth=3)))
    at_end = Recalibrated((subject.steps,))
    plain = Training(subject.data, subject.steps, subject.batch_size, measures=(at_end,))
    at = (0, *evaluated(subject.steps))
    followed = replace(plain, measures=(Evaluate(at, train=SAMPLES), at_end))
    found = yield from together(
        tuned(subject, _networks(subject), rates=RATES, training=followed),
        tuned(subject, _dropping(subject), rates=RATES, training=plain),  # only its end is asked for
    )
    arms = {name: arm for part, _ in found for name, arm in part.items()}
    effects = _at_equal_loss(subject, arms)
    if not subject.is_users:
        effects += [*_dropout_effects(subject, arms), *_ghost_effects(subject, arms)]
    names = {arm: _name(arm) for arm in arms}
    return ClaimResult(
        TEXT,
        overall(effects),
        words(subject, arms, SHARES),
        tuple(effects),
        (figure(subject, arms, SHARES),),
        (
            arms_table(say("{network}: each arm at its best rate", network=subject.name), arms, names),
            subjects_table(subject),
        ),
        runs=tuple(dict.fromkeys(key for _, keys in found for key in keys)),
    )


def _few(subject: Subject, preset: str) -> Subject:
    """Return the subject with few training samples; ours also with few wide layers and a large batch."""
    samples = min(SAMPLES, subject.data.train or SAMPLES)
    subject = replace(subject, data=replace(subject.data, train=samples))
    if subject.is_users or preset == "smoke":
        return subject
    width, steps = {"quick": (64, 300), "full": (64, 1000), "paper": (256, 3000)}[preset]
    network = subject.network.with_options(width=width)
    return replace(subject, network=network, steps=steps, batch_size=BATCH)


def _name(arm: str) -> str:
    norm, _, share = arm.partition(" ")
    return say("{arm} with dropout {share}", arm=NAMES[norm], share=share) if share else NAMES[norm]


def _networks(subject: Subject) -> dict[str, Network]:
    norms = ("none", "batch") if subject.is_users else ("none", "batch", "layer", *GHOSTS)
    return {norm: subject.network.with_norm(norm) for norm in norms}


def _dropping(subject: Subject) -> dict[str, Network]:
    if subject.is_users:
        return {}
    return {
        with_dropout(norm, share): subject.network.with_norm(norm).with_options(dropout=share)
        for norm in ("none", "batch")
        for share in SHARES[1:]
    }


def _at_equal_loss(subject: Subject, arms: Mapping[str, Tuned]) -> list[Effect]:
    effects = []
    pairs = [("batch", "none"), ("layer", "none"), *((ghost, "batch") for ghost in GHOSTS)]
    for arm, base in pairs:
        if arm not in arms:
            continue
        both = trained(arms[arm]) & trained(arms[base])
        accuracy, loss = [], []
        for seed in np.flatnonzero(both):
            paths = [path(arms[name].outcomes[seed]) for name in (arm, base)]
            target = common_loss(paths)
            with_, without = (at_loss(p.train_loss, p.accuracy, target) for p in paths)
            accuracy.append(with_ - without)
            with_, without = (at_loss(p.train_loss, p.test_loss, target) for p in paths)
            loss.append(without - with_)
        notes = [on_rates({name: arms[name] for name in (arm, base)})]
        if not both.all():
            notes.append(say("{count} seeds left out, where an arm does not train", count=int((~both).sum())))
        effects.append(
            difference(
                say(
                    "test accuracy at equal training loss, {arm} against {base}, {network}",
                    arm=NAMES[arm],
                    base=NAMES[base],
                    network=subject.name,
                ),
                say("points, {arm} − {base}", arm=NAMES[arm], base=NAMES[base]),
                accuracy,
                threshold=BETTER,
                primary=arm == "batch",
                note=listed([note for note in notes if note], "; "),
            )
        )
        if arm == "batch":
            effects.append(
                difference(
                    say("test loss at equal training loss, {network}", network=subject.name),
                    "cross-entropy, no normalisation − batch norm",
                    loss,
                    threshold=0.0,
                    primary=False,
                )
            )
    return effects


def _dropout_effects(subject: Subject, arms: Mapping[str, Tuned]) -> list[Effect]:
    both = trained(arms["none"]) & trained(arms["batch"])
    dropping = {norm: [with_dropout(norm, share) for share in SHARES] for norm in ("none", "batch")}
    names = {arm: _name(arm) for group in dropping.values() for arm in group}
    notes = {norm: on_rates({arm: arms[arm] for arm in group}, names) for norm, group in dropping.items()}
    out = int((~both).sum())
    left_out = say("{count} seeds left out, where an arm does not train", count=out) if out else ""
    effects = [
        difference(
            say("gain of the best dropout, without BN less with BN, {network}", network=subject.name),
            "points",
            list((gain(arms, "none", SHARES) - gain(arms, "batch", SHARES))[both]),
            threshold=LESS_NEED,
            note=listed(filter(None, (*notes.values(), left_out)), "; "),
        ),
        difference(
            say(
                "gain of the best dropout with recalibrated statistics, without BN less with BN, {network}",
                network=subject.name,
            ),
            "points",
            list((gain(arms, "none", SHARES) - gain(arms, "batch", SHARES, recalibrated))[both]),
            threshold=LESS_NEED,
            primary=False,
            note="running statistics of BN estimated anew without dropout",
        ),
    ]
    for norm in ("none", "batch"):
        effects.append(
            difference(
                say("gain of the best dropout, {arm}, {network}", arm=NAMES[norm], network=subject.name),
                "points over no dropout",
                list(gain(arms, norm, SHARES)[trained(arms[norm])]),
                threshold=0.0,
                primary=False,
                note=notes[norm],
            )
        )
    return effects


def _ghost_effects(subject: Subject, arms: Mapping[str, Tuned]) -> list[Effect]:
    return [
        difference(
            say(
                "final test accuracy, {arm} against the whole batch, {network}",
                arm=NAMES[ghost],
                network=subject.name,
            ),
            say("points, {arm} − batch norm", arm=NAMES[ghost]),
            list(arms[ghost].accuracy - arms["batch"].accuracy),
            threshold=0.0,
            primary=False,
        )
        for ghost in GHOSTS
    ]


CLAIM = Claim(TEXT, measure, takes_networks=True)
