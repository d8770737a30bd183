"""where-to-normalise: standardise the inputs, and by the same idea hidden layers; in practice Z, not a.

Source: the notes, after the usual teaching; Ioffe and Szegedy 2015 (arXiv 1502.03167), sec. 3.2, put BN
before the activation; LeCun et al. 1998 ("Efficient BackProp", sec. 4.3) standardise inputs. No number is
known.
Cost on 2 cores: quick about 1.5 minutes, full about 8; most of it is shared with other claims.
Command: xhat study --claims where-to-normalise
"""

from collections.abc import Generator, Mapping, Sequence, Sized
from dataclasses import replace

import numpy as np

from xhat.lang import listed, say
from xhat.study.claim import Claim, Context, Measurement, Subject, together
from xhat.study.claims._arms import arms_table, at_edge, trained
from xhat.study.claims._layer_step import BEHIND, Stepped, stepped
from xhat.study.claims._speed import BELOW, best, steps_to
from xhat.study.claims._tuned import RATES, Tuned, accuracy_curve, evaluated, tuned
from xhat.study.claims._where_figures import (
    NAMES,
    accuracy_figure,
    accuracy_words,
    step_figure,
    step_table,
    step_words,
)
from xhat.study.outcome import Outcome
from xhat.study.result import ClaimResult, ClaimText, Effect, overall
from xhat.study.spec import TrainSpec
from xhat.study.store import Run
from xhat.study.subjects import mlp, subjects_table, vgg
from xhat.study.verdict import difference, ratio

# Committed before the first run.
FASTER = 1.1  # times as many steps: a gain of less than a tenth is not called faster
WORSE = 1.0  # points of test accuracy that Z may lie below a
STEP = 1.2  # times as far the loss must fall when the next layer alone descends
NEAR = 0.8  # a fall without BN that leaves hardly room for STEP times as much: it is noted
# After it: raw inputs were best at the lowest rate of the common grid.
RAW_RATES = (0.003, 0.01, *RATES)

TEXT = ClaimText(
    id="where-to-normalise",
    title="Standardise the inputs, and in the same way the hidden layers, at Z",
    says=(
        "Inputs are standardised; in the same way the values of layer l can be, which speeds up the training "
        "of the next layer's W and b. In practice Z, before the activation, is normalised rather than a."
    ),
    measured=(
        "A ReLU MLP on pixels in [0, 1], on inputs standardised as a whole, with BN before the activation (Z), "
        "and with BN behind it (a), each at its own best learning rate of one grid, which for raw inputs goes "
        "two rates further down. As a whole: one μ and one σ for all pixels of a channel, from the training "
        "images before they are pooled; raw inputs are these, all moved and scaled by the same two numbers. "
        "The notes, as LeCun et al. 1998, sec. 4.3, mean each feature by its own μ and σ, which is not done "
        "here. Of two arms and a seed the common "
        f"target is the lower of their best test accuracies less {BELOW:g} point; the effect is the ratio of "
        "the steps until test accuracy first reaches it, since the notes speak of speed. The next layer: in "
        "networks with BN at one hidden layer l alone (1, 4 and 7), and without BN, trained at the plain "
        "network's best rate, ten steps of gradient descent on W and b of layer l + 1 alone, on the batch "
        "that comes next, at the best rate of a grid for each; at the start and at a quarter, half and the "
        "end of training. How far does the loss fall, in parts of itself, (L₀ − L)/L₀? Mean over layers and "
        f"times. Such a fall ends at 1, so that a ratio of {STEP:g} cannot be reached where the plain one is "
        f"above {1 / STEP:.0%}; the ratio of ln(L₀/L), which has no such end, stands beside, as do VGG with Z "
        "and without, and the next layer behind a, outside the verdict."
    ),
    threshold=(
        f"Supported if, each with the whole 95% interval, raw inputs take more than {FASTER:g} times the steps "
        f"of standardised ones, standardised inputs only more than {FASTER:g} times those of Z, Z is at most "
        f"{WORSE:g} point of test accuracy below a, and the loss falls more than {STEP:g} times as far with "
        "BN on the layer before."
    ),
    does_not_show=(
        "What standardising each feature by itself does, why Z or a is better, and whether it is so with "
        "other activations. That one layer descends faster "
        "alone does not say how fast it does among others. Test accuracy is that of evaluation mode, whose "
        "running averages lag behind at first: that counts against BN."
    ),
    source=(
        "The notes; [IS] Ioffe, Szegedy 2015, arXiv 1502.03167, sec. 3.2; LeCun, Bottou, Orr, Müller 1998, "
        "Efficient BackProp, sec. 4.3."
    ),
    expected="No number is known.",
    cost="quick: about 1.5 minutes; full: about 8 minutes; most of it is shared with other claims",
    changes=(
        "Raw inputs were best at the lowest learning rate of the common grid; they now have two lower ones, "
        "so that the grid's end does not speak for standardising. At the end of training the next layer "
        "descended on the batch just trained on; now on the one that would come next, as at the other times. "
        "The ratio of ln(L₀/L) was added outside the verdict."
    ),
)


def measure(context: Context) -> Measurement:
    """Train every arm at its own best rate, then see one layer descend behind a normalised one."""
    subject, beside = (context.subject(make(context.preset)) for make in (mlp, vgg))
    arms, around, keys = yield from _arms(subject, beside)
    after, more = yield from stepped(subject, arms["none"].rate)
    effects = [
        _faster(subject, arms, "raw", "none", primary=True),
        _faster(subject, arms, "none", "batch", primary=True),
        _better(subject, arms, "batch", "post", primary=True),
        _step(subject, after, "batch", primary=True),
        _better(subject, arms, "none", "raw"),
        _better(subject, arms, "batch", "none"),
        _step_logs(subject, after, "batch"),
        _step(subject, after, "post"),
        _faster(beside, around, "none", "batch"),
        _better(beside, around, "batch", "none"),
    ]
    pairs = [(subject, arms), (beside, around)]
    return ClaimResult(
        TEXT,
        overall(effects),
        (*(accuracy_words(*pair) for pair in pairs), step_words(after)),
        tuple(effects),
        (accuracy_figure(pairs), step_figure(after)),
        (
            *(
                arms_table(say("{network}: each arm at its best rate", network=s.name), found, NAMES)
                for s, found in pairs
            ),
            step_table(after),
            subjects_table(subject, beside),
        ),
        runs=tuple(dict.fromkeys((*keys, *more))),
    )


def _arms(
    subject: Subject, beside: Subject
) -> Generator[
    Sequence[TrainSpec], Sequence[Run], tuple[dict[str, Tuned], dict[str, Tuned], tuple[str, ...]]
]:
    """Train the MLP's four arms and VGG's two, on raw data or standardised."""
    usual = {norm: subject.network.with_norm(norm) for norm in ("none", "batch")}
    post = {"post": subject.network.with_norm("batch").with_options(place="post")}
    raw = replace(subject, data=replace(subject.data, raw=True))
    found = yield from together(
        tuned(raw, {"raw": usual["none"]}, rates=RAW_RATES),
        tuned(subject, usual | post),
        tuned(beside, {norm: beside.network.with_norm(norm) for norm in usual}),
    )
    (unscaled, _), (scaled, _), (around, _) = found
    return unscaled | scaled, around, tuple(key for _, keys in found for key in keys)


def _faster(
    subject: Subject, arms: Mapping[str, Tuned], slow: str, fast: str, *, primary: bool = False
) -> Effect:
    """Compare the steps to a common target; what is not known never speaks for ``fast``.

    Where one arm of a seed does not train, the other one sets the target: ``slow`` then counts with its
    budget if it never gets there, ``fast`` with twice its budget.
    """
    first = evaluated(subject.steps)[0]
    logs, open_, late = [], 0, 0
    at_least = False
    for pair in zip(arms[slow].outcomes, arms[fast].outcomes, strict=True):
        trains = [outcome for outcome in pair if outcome.trains]
        target = min((best(outcome) for outcome in trains), default=np.inf) - BELOW
        before, after = (_steps(outcome, target) for outcome in pair)
        if not trains or max(before, after) <= first:
            open_ += 1
            continue
        late += not np.isfinite(before + after)
        at_least |= not np.isfinite(before) or (after <= first and np.isfinite(before))
        before = before if np.isfinite(before) else subject.steps
        after = after if np.isfinite(after) else 2 * subject.steps
        logs.append(float(np.log(before / after)))
    notes = [at_edge({arm: arms[arm] for arm in (slow, fast)}, NAMES)]
    if open_:
        notes.append(
            say("{count} seeds left out: neither trains, or both are there when first measured", count=open_)
        )
    if late:
        notes.append(say("in {count} seeds one of the two never reaches the target", count=late))
    return ratio(
        say(
            "steps to a common accuracy, {network}, {fast} against {slow}",
            network=subject.name,
            fast=NAMES[fast],
            slow=NAMES[slow],
        ),
        say("ratio, {slow} / {fast}", slow=NAMES[slow], fast=NAMES[fast]),
        logs,
        threshold=FASTER,
        primary=primary,
        at_least=at_least,
        note=listed([note for note in notes if note]),
    )


def _steps(outcome: Outcome, target: float) -> float:
    return steps_to(target, evaluated(len(outcome.loss)), accuracy_curve(outcome))


def _better(
    subject: Subject, arms: Mapping[str, Tuned], this: str, other: str, *, primary: bool = False
) -> Effect:
    known = trained(arms[this]) | trained(arms[other])
    left_out = int((~known).sum())
    return difference(
        say(
            "test accuracy, {network}, {this} against {other}",
            network=subject.name,
            this=NAMES[this],
            other=NAMES[other],
        ),
        say("points, {this} − {other}", this=NAMES[this], other=NAMES[other]),
        list((arms[this].accuracy - arms[other].accuracy)[known]),
        threshold=-WORSE if primary else 0.0,
        primary=primary,
        note=say("{count} seeds left out that train in neither", count=left_out) if left_out else "",
    )


def _step(subject: Subject, after: Stepped, arm: str, *, primary: bool = False) -> Effect:
    logs = after.gains(arm)
    return ratio(
        say(
            "fall of the loss through the next layer alone, {network}, {arm}",
            network=subject.name,
            arm=BEHIND[arm],
        ),
        say("ratio, {arm} / {plain}", arm=BEHIND[arm], plain=BEHIND["none"]),
        list(logs),
        threshold=STEP,
        primary=primary,
        note=listed(filter(None, (_step_note(subject, logs), _near(after)))),
    )


def _step_logs(subject: Subject, after: Stepped, arm: str) -> Effect:
    logs = after.log_gains(arm)
    return ratio(
        say(
            "ln(L₀/L) of the loss through the next layer alone, {network}, {arm}",
            network=subject.name,
            arm=BEHIND[arm],
        ),
        say("ratio, {arm} / {plain}", arm=BEHIND[arm], plain=BEHIND["none"]),
        list(logs),
        threshold=STEP,
        primary=False,
        note=_step_note(subject, logs),
    )


def _step_note(subject: Subject, logs: Sized) -> str:
    left_out = subject.seeds - len(logs)
    if not left_out:
        return ""
    return say("{count} seeds left out that do not train in every network", count=left_out)


def _near(after: Stepped) -> str:
    highest = after.highest()
    if not highest > NEAR:
        return ""
    return say(
        "without normalisation the mean fall is up to {fall:.0%}, and no fall exceeds 100%: above {limit:.0%} "
        "a ratio of {threshold:g} cannot be reached",
        fall=highest,
        limit=1 / STEP,
        threshold=STEP,
    )


CLAIM = Claim(TEXT, measure, takes_networks=False)
