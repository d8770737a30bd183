"""larger-lr: with BN larger learning rates can be used.

Source: Ioffe and Szegedy 2015 (arXiv 1502.03167), sec. 4.2.2 and figure 3. Expected there: Inception with
BN trains at 5 and 30 times the learning rate at which the plain network reaches machine infinity (x5).
Cost on 2 cores: quick about 1 minute, full about 9.
Command: xhat study --claims larger-lr
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import replace

from xhat.lang import listed, say
from xhat.study.claim import Claim, Context, Measurement, Subject, together
from xhat.study.claims._larger_lr_figures import found_figure, grid_figure, table, words
from xhat.study.claims._rates import RATES, Largest, descend, largest_rates, last_rate, on_grid
from xhat.study.curves import ARM_NAMES, ARM_SIGNS
from xhat.study.result import ClaimResult, ClaimText, Effect, Figure, Table, overall
from xhat.study.spec import TrainSpec
from xhat.study.store import Run
from xhat.study.subjects import mlp, subjects_table, vgg
from xhat.study.verdict import MIN_PAIRS, judge, ratio

# Committed before the first run: the largest learning rate that trains must at least double.
THRESHOLD = 2.0

TEXT = ClaimText(
    id="larger-lr",
    title="Batch norm allows larger learning rates",
    says="With BN a larger learning rate can be used, training is steadier and much faster.",
    measured=(
        "The largest learning rate of a grid from 0.0125 to 102.4 in factors of two at which a network trains, "
        "whether smaller ones do or not: finite loss at every step and a final training loss below half of chance. "
        "MLP: every rate of the grid is run, He initialisation in all arms. Larger networks: coming down the same "
        "grid from 25.6 in steps of four, the first rate that trains, or the one above it if that trains too; each "
        "seed by itself. The effect is the ratio with / without BN, paired by seed. Layer norm (MLP) and group norm "
        "(VGG) stand beside BN, outside the verdict: they tell its effect from any normalisation's."
    ),
    threshold=f"Supported if the ratio of every network lies above {THRESHOLD:g} with its whole 95% interval.",
    does_not_show=(
        "That the largest rate is the best one. Plain SGD without warm-up or decay, and one budget of steps: "
        "a longer one may let smaller rates train too. A rate that trains between two that "
        "do not may be passed over in larger networks, where only every other rate of the grid is tried."
    ),
    source="[IS] Ioffe, Szegedy 2015, arXiv 1502.03167, sec. 4.2.2, fig. 3.",
    expected="[IS] fig. 3: with BN 5 and 30 times the rate train; without, 5 times reaches machine infinity.",
    cost="quick: about 1 minute; full: about 9 minutes",
    changes=(
        "Larger networks were searched by bisection, which goes astray where a small rate fails by being too "
        "small; they are now searched from above. Seeds that train at no rate, and arms that reach the grid's "
        "end, no longer speak for BN. All runs were made anew on other seeds. VGG's arm with group norm "
        "came later; it decides nothing."
    ),
)

Found = Generator[Sequence[TrainSpec], Sequence[Run], tuple[Largest, Sequence[Run], Figure]]


def measure(context: Context) -> Measurement:
    """Find the largest rate that trains, for each network, arm and seed."""
    effects: list[Effect] = []
    figures: list[Figure] = []
    found: list[str] = []
    keys: list[str] = []
    tables: list[Table] = []
    subjects = [
        _shortened(s, context.preset) for s in context.subjects(mlp(context.preset), vgg(context.preset))
    ]
    searches = yield from together(*(_grid(s) if s.network.is_ensemble else _from_above(s) for s in subjects))
    for subject, (largest, runs, drawn) in zip(subjects, searches, strict=True):
        figures.append(drawn)
        keys += [run.key for run in runs]
        effects.append(_effect(subject, largest, "batch", primary=True))
        others = [arm for arm in largest if arm not in ("none", "batch")]
        effects += [_effect(subject, largest, arm, primary=False) for arm in others]
        tables.append(table(subject, largest))
        found.append(words(subject, largest))
    return ClaimResult(
        TEXT,
        overall(effects),
        tuple(found),
        tuple(effects),
        tuple(figures),
        (*tables, subjects_table(*subjects)),
        runs=tuple(dict.fromkeys(keys)),
    )


def _grid(subject: Subject) -> Found:
    trained, runs = yield from on_grid(subject)
    return largest_rates(subject, trained), runs, grid_figure(subject, trained)


def _from_above(subject: Subject) -> Found:
    arms = ("none", "batch") if subject.is_users else ("none", "batch", "group")
    largest, runs = yield from descend(subject, arms)
    return largest, runs, found_figure(subject, largest)


def _shortened(subject: Subject, preset: str) -> Subject:
    """The search takes many runs: in ``quick`` and ``full`` each has five sixths of the steps."""
    if preset not in ("quick", "full") or subject.network.is_ensemble or subject.is_users:
        return subject
    return replace(subject, steps=subject.steps * 5 // 6)


def _effect(subject: Subject, largest: Largest, arm: str, *, primary: bool) -> Effect:
    """Compare pair by pair; what the grid leaves open never speaks for BN.

    An arm that trains at no rate counts as half the lowest one against BN, and is left out where the
    plain network is the one that fails. Where both arms reach the grid's end nothing is known.
    """
    end = last_rate(subject)
    pairs = [
        (with_ if with_ is not None else RATES[0] / 2, without)
        for with_, without in zip(largest[arm], largest["none"], strict=True)
        if without is not None and not (with_ == end and without == end)
    ]
    left_out = len(largest[arm]) - len(pairs)
    notes = [say("each rate is known to a factor of two")]
    if left_out:
        notes.append(
            say(
                "{count} seeds left out: plain trains at no rate, or both arms at the grid's end",
                count=left_out,
            )
        )
    failed = sum(with_ is None for with_ in largest[arm])
    if failed:
        notes.append(
            say(
                "{count} seeds of {arm} train at no rate and count as half the lowest",
                count=failed,
                arm=ARM_NAMES[arm],
            )
        )
    effect = ratio(
        say("largest rate that trains, {network}", network=subject.name),
        say("ratio, {arm} / none", arm=ARM_SIGNS[arm]),
        [math.log(with_ / without) for with_, without in pairs],
        threshold=THRESHOLD,
        primary=primary,
        at_least=any(with_ == end for with_, _ in pairs),
        note=listed(notes),
    )
    if len(pairs) >= MIN_PAIRS and math.isclose(effect.low, effect.high):
        # All ratios alike: what is left is the grid's own step, two, up and down.
        low, high = effect.estimate / 2, effect.estimate * 2
        return replace(effect, low=low, high=high, verdict=judge(low, high, THRESHOLD, "above"))
    return effect


CLAIM = Claim(TEXT, measure, takes_networks=True)
