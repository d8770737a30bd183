"""larger-lr: with BN larger learning rates can be used.

Source: Ioffe and Szegedy 2015 (arXiv 1502.03167), sec. 4.2.1 and figure 3. Expected there: Inception with
BN trains at 5 and 30 times the learning rate at which the plain network reaches machine infinity (x5).
Cost on 2 cores: quick about 1 minute, full about 7.
Command: xhat study --claims larger-lr
"""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from xhat.lang import listed, say
from xhat.study.claim import Claim, Context, Measurement, Subject, together
from xhat.study.curves import ARM_NAMES, mean_curve
from xhat.study.outcome import Outcome, Training, outcomes, specs
from xhat.study.result import Axis, ClaimResult, ClaimText, Curve, Effect, Figure, Panel, Table, overall
from xhat.study.spec import Member, TrainSpec
from xhat.study.store import Run
from xhat.study.subjects import mlp, subjects_table, vgg
from xhat.study.verdict import MIN_PAIRS, judge, ratio

# Committed before the first run: the largest learning rate that trains must at least double.
THRESHOLD = 2.0
RATES = tuple(0.0125 * 2**k for k in range(14))  # up to 102.4
TOP = 11  # where the search in larger networks starts: 25.6

TEXT = ClaimText(
    id="larger-lr",
    title="Batch norm allows larger learning rates",
    says="With BN a larger learning rate can be used, training is steadier and much faster.",
    measured=(
        "The largest learning rate of a grid in factors of two at which a network trains: finite at every "
        "step and a final training loss below half of chance. MLP: every rate of the grid is run, He "
        "initialisation in all arms. Larger networks: coming down the same grid in steps of four, the first "
        "rate that trains, or the one above it if that trains too; each seed by itself. The effect is the "
        "ratio with / without BN, paired by seed. Layer norm is shown beside it where it tells BN's effect "
        "from any normalisation's."
    ),
    threshold=f"Supported if the ratio of every network lies above {THRESHOLD:g} with its whole 95% interval.",
    does_not_show=(
        "That the largest rate is the best one. Plain SGD without warm-up or decay, and one budget of steps: "
        "a longer one may let smaller rates train too. A rate that trains between two that "
        "do not may be passed over in larger networks, where only every other rate of the grid is tried."
    ),
    source="[IS] Ioffe, Szegedy 2015, arXiv 1502.03167, sec. 4.2.1, fig. 3.",
    expected="[IS] fig. 3: with BN 5 and 30 times the rate train; without, 5 times reaches machine infinity.",
    cost="quick: about 1 minute; full: about 7 minutes",
    changes=(
        "Larger networks were searched by bisection, which goes astray where a small rate fails by being too "
        "small; they are now searched from above. Seeds that train at no rate, and arms that reach the grid's "
        "end, no longer speak for BN. All runs were made anew on other seeds."
    ),
)

Largest = dict[str, list[float | None]]  # by arm, a rate a seed; None: no rate trains
Search = Generator[Sequence[TrainSpec], Sequence[Run], tuple[Largest, Sequence[Run], list[Figure]]]


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
    searches = yield from together(*(_grid(s) if s.network.is_ensemble else _descend(s) for s in subjects))
    for subject, (largest, runs, drawn) in zip(subjects, searches, strict=True):
        figures += drawn
        keys += [run.key for run in runs]
        effects.append(_effect(subject, largest, "batch", primary=True))
        if "layer" in largest:
            effects.append(_effect(subject, largest, "layer", primary=False))
        tables.append(_table(subject, largest))
        found.append(_words(subject, largest))
    return ClaimResult(
        TEXT,
        overall(effects),
        tuple(found),
        tuple(effects),
        tuple(figures),
        (*tables, subjects_table(*subjects)),
        runs=tuple(dict.fromkeys(keys)),
    )


def _grid(subject: Subject) -> Search:
    trained, runs = yield from on_grid(subject)
    return largest_rates(subject, trained), runs, [_figure(subject, trained)]


def on_grid(
    subject: Subject, arms: Sequence[str] = ("none", "batch", "layer")
) -> Generator[Sequence[TrainSpec], Sequence[Run], tuple[dict[tuple[str, Member], Outcome], Sequence[Run]]]:
    """Train all rates of the grid as one ensemble an arm; other claims ask for the same runs."""
    members = [Member(seed, rate, subject.init) for seed in range(subject.seeds) for rate in RATES]
    training = Training(subject.data, subject.steps, subject.batch_size)
    wanted = [s for norm in arms for s in specs(subject.network.with_norm(norm), members, training)]
    runs = yield wanted
    found = {(n.norm, member): outcome for (n, member), outcome in outcomes(wanted, runs).items()}
    return found, runs


def largest_rates(subject: Subject, trained: Mapping[tuple[str, Member], Outcome]) -> Largest:
    """Return the largest rate of the grid that trains, by arm and seed."""
    return {
        norm: [
            max((r for r in RATES if trained[norm, Member(seed, r, subject.init)].trains), default=None)
            for seed in range(subject.seeds)
        ]
        for norm in dict.fromkeys(norm for norm, _ in trained)
    }


def _shortened(subject: Subject, preset: str) -> Subject:
    """The search takes many runs: in ``quick`` and ``full`` each has five sixths of the steps."""
    if preset not in ("quick", "full") or subject.network.is_ensemble or subject.is_users:
        return subject
    return replace(subject, steps=subject.steps * 5 // 6)


def _descend(subject: Subject) -> Search:
    """Come down the grid in steps of four to the first rate that trains, then try the one above it.

    From above, because a rate may fail by being too small as well as too large.
    """
    training = Training(subject.data, subject.steps, subject.batch_size)
    cases = [(norm, seed) for norm in ("none", "batch") for seed in range(subject.seeds)]
    largest: dict[tuple[str, int], int] = {}
    all_runs: list[Run] = []

    def ask(
        places: dict[tuple[str, int], int],
    ) -> Generator[Sequence[TrainSpec], Sequence[Run], dict[tuple[str, int], bool]]:
        wanted = [
            specs(subject.network.with_norm(norm), [_member(subject, seed, place)], training)[0]
            for (norm, seed), place in places.items()
        ]
        runs = yield wanted
        all_runs.extend(runs)
        return {case: bool(run.arrays["trains"][0]) for case, run in zip(places, runs, strict=True)}

    for place in (*range(TOP, 0, -2), 0):
        open_ = [case for case in cases if case not in largest]
        if open_:
            trains = yield from ask(dict.fromkeys(open_, place))
            largest |= {case: place for case in open_ if trains[case]}
    above = {case: place + 1 for case, place in largest.items() if place < TOP}
    if above:
        trains = yield from ask(above)
        largest |= {case: above[case] for case in above if trains[case]}
    found: Largest = {
        norm: [
            RATES[place] if (place := largest.get((norm, seed))) is not None else None
            for seed in range(subject.seeds)
        ]
        for norm in ("none", "batch")
    }
    return found, all_runs, [_found_figure(subject, found)]


def _member(subject: Subject, seed: int, place: int) -> Member:
    return Member(seed, RATES[place], subject.init)


def _end(subject: Subject) -> float:
    """Return the largest rate tried."""
    return float(RATES[-1] if subject.network.is_ensemble else RATES[TOP])


def _effect(subject: Subject, largest: Largest, arm: str, *, primary: bool) -> Effect:
    """Compare pair by pair; what the grid leaves open never speaks for BN.

    An arm that trains at no rate counts as half the lowest one against BN, and is left out where the
    plain network is the one that fails. Where both arms reach the grid's end nothing is known.
    """
    end = _end(subject)
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
        say("ratio, {arm} / none", arm=arm),
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


def _figure(subject: Subject, trained: Mapping[tuple[str, Member], Outcome]) -> Figure:
    share, final = [], []
    for norm in dict.fromkeys(norm for norm, _ in trained):
        rows = [
            [trained[norm, Member(seed, rate, subject.init)] for rate in RATES]
            for seed in range(subject.seeds)
        ]
        trains = np.mean([[float(outcome.trains) for outcome in row] for row in rows], axis=0)
        share.append(
            Curve(ARM_NAMES[norm], norm, RATES, tuple(map(float, 100 * trains)), mode="lines+markers")
        )
        losses = [np.array([outcome.final_loss for outcome in row]) for row in rows]
        final.append(mean_curve(ARM_NAMES[norm], norm, RATES, losses, log=True))
    rate_axis = Axis("learning rate", log=True)
    return Figure(
        id=f"larger-lr-{subject.network.name}",
        title=say("Learning rates that train: {network}", network=subject.name),
        caption=say(
            "Left: share of {seeds} seeds that train. Right: geometric mean over seeds of the final training "
            "loss with its 95% interval, over the seeds whose loss is finite; a curve ends where none is.",
            seeds=subject.seeds,
        ),
        alt=say(
            "Share of seeds that train and final loss against learning rate. {found}",
            found=_words(subject, largest_rates(subject, trained)),
        ),
        panels=(
            Panel("Who trains", rate_axis, Axis("seeds that train (%)"), tuple(share)),
            Panel("Final training loss", rate_axis, Axis("cross-entropy", log=True), tuple(final)),
        ),
    )


def _found_figure(subject: Subject, largest: Largest) -> Figure:
    seeds = tuple(float(seed) for seed in range(subject.seeds))
    curves = tuple(
        Curve(
            ARM_NAMES[norm],
            norm,
            seeds,
            tuple(math.nan if rate is None else rate for rate in rates),
            mode="markers",
        )
        for norm, rates in largest.items()
    )
    return Figure(
        id=f"larger-lr-{subject.network.name.replace(':', '-')}",
        title=say("Largest learning rate that trains: {network}", network=subject.name),
        caption=say(
            "One point a seed and arm, on a grid in factors of two up to {end:g}.", end=_end(subject)
        ),
        alt=_words(subject, largest),
        panels=(Panel("By seed", Axis("seed"), Axis("largest learning rate that trains", log=True), curves),),
    )


def _table(subject: Subject, largest: Largest) -> Table:
    seeds = range(len(largest["none"]))
    return Table(
        say("Largest learning rate that trains, {network}", network=subject.name),
        ("seed", *(ARM_NAMES[norm] for norm in largest)),
        tuple((seed, *(_cell(rates[seed]) for rates in largest.values())) for seed in seeds),
    )


def _cell(rate: float | None) -> str | float:
    return "none trains" if rate is None else rate


def _words(subject: Subject, largest: Largest) -> str:
    parts: list[str] = []
    for norm, rates in largest.items():
        known = [rate for rate in rates if rate is not None]
        if not known:
            parts.append(say("with {arm} no rate of the grid trains", arm=ARM_NAMES[norm]))
            continue
        words: list[str] = [say("{arm} {rate:g}", arm=ARM_NAMES[norm], rate=float(np.median(known)))]
        if max(known) >= _end(subject):
            words.append(say("(the grid's end)"))
        if len(known) < len(rates):
            words.append(
                say("({count} of {seeds} seeds train at some rate)", count=len(known), seeds=len(rates))
            )
        parts.append(listed(words, " "))
    return say(
        "{network}, median over seeds of the largest rate that trains: {rates}.",
        network=subject.name,
        rates=listed(parts, ", "),
    )


CLAIM = Claim(TEXT, measure, takes_networks=True)
