"""What the claim "no-bias" shows: differences by seed, losses that part, parameters saved, sentences."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from torch import nn

from xhat.lang import listed, say
from xhat.study.claim import Subject
from xhat.study.claims._span import span_curve
from xhat.study.curves import ARM_NAMES
from xhat.study.networks import build
from xhat.study.outcome import Outcome
from xhat.study.result import Axis, Curve, Figure, Panel, Table
from xhat.study.spec import Member, Network
from xhat.study.train import load_data
from xhat.unchanged import unchanged

MARGIN = 1.0  # point of test accuracy, either way
APART = 0.01  # of chance: a difference of batch losses from here on counts as seen
ARMS = ("batch", "none", "control")
NUDGE = 1e-6  # relative: by so much the initial weights of the control differ
NAMES = {**ARM_NAMES, "control": "control: BN, biases, nudged weights"}

# By arm, one a seed: trainings with and without biases; of the control both with biases, the second nudged.
Pairs = Mapping[str, Sequence[tuple[Outcome, Outcome]]]
Shown = Sequence[tuple[Subject, Pairs]]
Floats = npt.NDArray[np.float64]
Points = Mapping[tuple[str, str], Floats]  # by network and arm, one a seed


def by_seed(shown: Shown, points: Points) -> Figure:
    """Draw each seed's difference of accuracy, between the margins."""
    panels = []
    for subject, _ in shown:
        seeds = tuple(float(seed) for seed in range(subject.seeds))
        curves = [
            Curve(NAMES[arm], arm, seeds, tuple(map(float, points[subject.name, arm])), mode="markers")
            for arm in ARMS
        ]
        for sign in (-1, 1):
            curves.append(
                Curve("margin", "margin", (seeds[0], seeds[-1]), (sign * MARGIN, sign * MARGIN), dashed=True)
            )
        panels.append(
            Panel(
                subject.name,
                Axis("seed"),
                Axis("test accuracy, without − with (points)"),
                tuple(curves),
            )
        )
    return Figure(
        id="no-bias-seeds",
        title="What biases change in test accuracy",
        caption=say(
            "One point a seed; both runs share weights, batches and learning rate. Control: what a change of "
            "the initial weights in the sixth digit does. Dashed: the margin of ±{margin:g} point, in which "
            "BN's interval of the mean has to lie.",
            margin=MARGIN,
        ),
        alt=listed([words(*each, points) for each in shown], " "),
        panels=tuple(panels),
    )


def losses(shown: Shown) -> Figure:
    """Draw how far the batch losses of the two trainings lie apart."""
    panels = []
    for subject, pairs in shown:
        curves = [
            span_curve(NAMES[arm], arm, range(subject.steps), [_gap(*pair) for pair in pairs[arm]])
            for arm in ARMS
        ]
        panels.append(
            Panel(
                subject.name,
                Axis("training step"),
                Axis("difference of batch losses (cross-entropy)", log=True),
                tuple(curves),
            )
        )
    return Figure(
        id="no-bias-losses",
        title="The same training, but for rounding",
        caption=(
            "How far the batch losses of both trainings lie apart. Lines: median over seeds; bands: from the "
            "lowest seed to the highest; steps at which they are equal are left out. With BN the difference "
            "starts at rounding, and what follows is its growth; without BN the bias itself makes it. "
            "Control: a network with BN and biases against itself, its initial weights changed in the sixth "
            "digit."
        ),
        alt=listed([_parting(*each) for each in shown], " "),
        panels=tuple(panels),
    )


def _gap(usual: Outcome, bare: Outcome) -> Floats:
    """Return how far the batch losses lie apart, NaN where they are equal."""
    gap = np.abs(usual.loss - bare.loss)
    return np.where(gap > 0, gap, np.nan)


def parting(usual: Outcome, bare: Outcome) -> float:
    """Return the first step at which the losses lie more than a hundredth of chance apart; NaN if never."""
    chance = float(usual.run.arrays["chance"][usual.index])
    found = np.flatnonzero(_gap(usual, bare) > APART * chance)
    return float(found[0]) if len(found) else np.nan


def _parting(subject: Subject, pairs: Pairs) -> str:
    parts = []
    for arm in ARMS:
        steps = [step for step in (parting(*pair) for pair in pairs[arm]) if np.isfinite(step)]
        if steps:
            parts.append(say("{arm} at step {step:.0f}", arm=NAMES[arm], step=float(np.median(steps))))
        else:
            parts.append(say("{arm} at no step", arm=NAMES[arm]))
    return say(
        "{network}, losses first differ by a hundredth of chance, median over seeds: {parts}.",
        network=subject.name,
        parts=listed(parts, ", "),
    )


def parameters(subjects: Sequence[Subject]) -> Table:
    """Count the parameters of the BN networks, built with and without biases."""
    rows = []
    for subject in subjects:
        network = subject.network.with_norm("batch")
        with_, without = count(network, subject), count(network.with_options(bias=0), subject)
        rows.append((subject.name, with_, without, with_ - without, 100 * (with_ - without) / with_))
    return Table(
        "Parameters saved with BN",
        ("network", "parameters with biases", "without", "saved", "saved (%)"),
        tuple(rows),
    )


def count(network: Network, subject: Subject) -> int:
    """Return the number of parameters of one network as it is built for training."""
    with unchanged(nn.Identity()):  # building seeds the global generators
        model = build(network, (Member(0, 0.1, subject.init),), load_data(subject.data, None))
    return sum(parameter.numel() for parameter in model.parameters())


def settings(shown: Shown, points: Points) -> Table:
    """Return rates, differences and seeds by network and arm."""
    rows = []
    for subject, pairs in shown:
        for arm in ARMS:
            steps = [step for step in (parting(*pair) for pair in pairs[arm]) if np.isfinite(step)]
            known = points[subject.name, arm]
            known = known[np.isfinite(known)]
            rows.append(
                (
                    subject.name,
                    NAMES[arm],
                    pairs[arm][0][0].member.lr,
                    float(known.mean()) if len(known) else "not known",
                    float(np.abs(known).max()) if len(known) else "not known",
                    float(np.median(steps)) if steps else "never",
                )
            )
    return Table(
        "With and without biases",
        (
            "network",
            "arm",
            "learning rate",
            "mean difference (points)",
            "largest of a seed (points)",
            "losses differ from step, median",
        ),
        tuple(rows),
    )


def words(subject: Subject, pairs: Pairs, points: Points) -> str:
    """Say the mean difference with and without BN."""
    parts = []
    for arm in ARMS:
        known = points[subject.name, arm]
        known = known[np.isfinite(known)]
        if len(known):
            parts.append(say("{arm} {mean:+.2f}", arm=NAMES[arm], mean=float(known.mean())))
        else:
            parts.append(say("{arm} not known, no seed trains", arm=NAMES[arm]))
    return say(
        "{network}, points of test accuracy without biases against with them (of the control: nudged against "
        "not), mean over seeds: {parts}.",
        network=subject.name,
        parts=listed(parts, ", "),
    )
