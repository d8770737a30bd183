"""diverging-distributions: what do the distributions do in networks that do not converge, or oscillate?

The notes' open question. Santurkar et al. 2018 (arXiv 1805.11604, fig. 1) saw no difference between the
distributions of two networks that both converge. No number is known for the rest: ours.
Cost on 2 cores: quick about half a minute, full about 3.
Command: xhat study --claims diverging-distributions
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from xhat.lang import listed, say
from xhat.study.claim import Claim, Context, Measurement, Subject
from xhat.study.claims._diverging_figures import figures
from xhat.study.claims._drift import STILL, Movement, Watched
from xhat.study.claims._rates import RATES, largest_rates, on_grid
from xhat.study.curves import spaced
from xhat.study.outcome import Training, outcomes, specs
from xhat.study.result import ClaimResult, ClaimText, Effect, Table, overall
from xhat.study.spec import Member, Network, Record, TrainSpec
from xhat.study.store import Run
from xhat.study.subjects import mlp, subjects_table
from xhat.study.verdict import difference, ratio

# Committed before the first run.
STABLER = 1.0  # times: a collapsed network's drift below the least drift of any other
PERIOD = 0.5  # autocorrelation at lag 2 minus that at lag 1
UNRELATED = 0.5  # rank correlation of drift and final loss: within ± this it does not predict

CONVERGES, BN_CONVERGES = "plain, lr 0.1", "BN, lr 0.1"
EDGE, ABOVE = "plain, largest lr that trains", "plain, one step above it"

TEXT = ClaimText(
    id="diverging-distributions",
    title="Layer distributions in networks that do not converge or oscillate",
    says=(
        "With and without BN the distributions of a VGG's layers over training look alike, but both networks "
        "converge. What do they do in a network that does not converge, or whose training oscillates? The "
        "author did not know."
    ),
    measured=(
        "Networks that converge and networks that do not, each on a fixed probe batch, in an early, a middle "
        "and a late layer: before normalisation, after it, and at the next layer's input, which decides "
        "(after BN the moments are β and γ² by construction). Drift: Wasserstein-1 distance of each unit's "
        "distribution between neighbouring records, over the pooled standard deviation, in the second half "
        "of training. Oscillation: autocorrelation of the units' means over the last steps. Collapsed: "
        "finite, with a final loss within 5% of chance."
    ),
    threshold=(
        "Three hypotheses. Collapsed networks have the most stable distributions: the least drift of any "
        "other network of the same seed exceeds theirs (ratio above 1). Networks just above the "
        "largest learning rate that trains oscillate with period 2: autocorrelation at lag 2 minus lag 1 "
        f"above {PERIOD:g}. Stability does not predict training: the rank correlation of drift and final "
        f"loss lies within ±{UNRELATED:g}. Supported if all three are."
    ),
    does_not_show=(
        "That stable distributions do harm or good: networks were compared, nothing was held still. Networks "
        "whose loss became infinite have no distribution any more and are only counted. The conditions were "
        "chosen by hand: the rank correlation is one over these conditions, its interval one over seeds."
    ),
    source="The notes' open question; after [S] Santurkar et al. 2018, arXiv 1805.11604, fig. 1 and Alg. 1.",
    expected="Unknown; [S] saw no marked difference between two networks that converge.",
    cost="quick: about half a minute; full: about 3 minutes",
    changes=(
        "The Wasserstein distance is now the area between quantile functions, not a mean over levels; a "
        "network that stands still counts as not oscillating. All runs were made anew on other seeds."
    ),
)


@dataclass(frozen=True)
class Condition:
    """One way to train, with a learning rate a seed."""

    name: str
    network: Network
    members: tuple[Member, ...]


def measure(context: Context) -> Measurement:
    """Record the distributions under each condition and test the three hypotheses."""
    (subject,) = context.subjects(mlp(context.preset))
    keys: list[str] = []
    if subject.is_users:
        conditions = _users(subject)
    else:
        conditions, keys = yield from _ours(subject)
    window = min(8 if context.preset == "smoke" else 48, subject.steps // 2)
    watched = None if subject.is_users else _watched(subject)
    layers = (
        tuple(dict.fromkeys(layer for place in watched.values() for layer, _ in place)) if watched else None
    )
    at = sorted({*spaced(subject.steps - window, 30), *range(subject.steps - window, subject.steps)})
    training = Training(
        subject.data, subject.steps, subject.batch_size, record=Record(tuple(at), batch=128, layers=layers)
    )
    wanted = [specs(c.network, c.members, training) for c in conditions]
    flat = [spec for group in wanted for spec in group]
    runs = yield flat
    done = dict(zip(flat, runs, strict=True))
    moved: dict[str, list[Movement]] = {}
    for condition, group in zip(conditions, wanted, strict=True):
        trained = outcomes(group, [done[spec] for spec in group])
        moved[condition.name] = [
            Movement(trained[condition.network, member], window, watched) for member in condition.members
        ]
    effects = _effects(moved)
    return ClaimResult(
        TEXT,
        overall(effects),
        _words(moved, effects),
        tuple(effects),
        figures(moved),
        (_table(moved), subjects_table(subject)),
        runs=tuple(dict.fromkeys([*keys, *(run.key for run in runs)])),
    )


def _ours(
    subject: Subject,
) -> Generator[Sequence[TrainSpec], Sequence[Run], tuple[list[Condition], list[str]]]:
    """Return our conditions; the largest rates that train come from the runs of larger-lr."""
    trained, runs = yield from on_grid(subject, ("none", "batch"))
    largest = largest_rates(subject, trained)
    seeds = range(subject.seeds)
    plain, batch = subject.network.with_norm("none"), subject.network.with_norm("batch")
    sigmoid = Network("mlp", "none", tuple({**dict(plain.options), "activation": "sigmoid"}.items()))

    def rate(norm: str, seed: int, above: int) -> float:
        found = largest[norm][seed]
        place = (RATES.index(found) if found is not None else 0) + above
        return float(RATES[min(place, len(RATES) - 1)])

    def all_at(lr: float, init: str = subject.init) -> tuple[Member, ...]:
        return tuple(Member(seed, lr, init) for seed in seeds)

    def each_at(norm: str, above: int) -> tuple[Member, ...]:
        return tuple(Member(seed, rate(norm, seed, above), subject.init) for seed in seeds)

    conditions = [
        Condition(CONVERGES, plain, all_at(0.1)),
        Condition(BN_CONVERGES, batch, all_at(0.1)),
        Condition("plain, lr 0.5", plain, all_at(0.5)),
        Condition(EDGE, plain, each_at("none", 0)),
        Condition(ABOVE, plain, each_at("none", 1)),
        Condition("plain with noise, lr 0.1", plain.with_norm("none+noise"), all_at(0.1)),
        Condition("BN with noise, lr 0.1", plain.with_norm("batch+noise"), all_at(0.1)),
        Condition("plain sigmoid, lr 0.1", sigmoid, all_at(0.1, "xavier")),
        Condition("BN, one step above its largest", batch, each_at("batch", 1)),
    ]
    return conditions, [run.key for run in runs]


def _users(subject: Subject) -> list[Condition]:
    return [
        Condition(
            say("{arm}, lr {rate:g}", arm=name, rate=lr),
            subject.network.with_norm(norm),
            tuple(Member(seed, lr, subject.init) for seed in range(subject.seeds)),
        )
        for name, norm in (("plain", "none"), ("BN", "batch"))
        for lr in (0.1, 0.5, 5.0)
    ]


def _watched(subject: Subject) -> Watched:
    """Return where an early, a middle and a late layer are watched."""
    depth = int(dict(subject.network.options)["depth"])
    places = sorted({1, depth // 2, depth - 1})
    return {
        "before normalisation": tuple((f"hidden.{place}.1", "input") for place in places),
        "after normalisation": tuple((f"hidden.{place}.1", "output") for place in places),
        "at the next layer's input": tuple((f"hidden.{place}.0", "input") for place in places),
    }


def _effects(moved: Mapping[str, list[Movement]]) -> list[Effect]:
    seeds = range(len(next(iter(moved.values()))))
    stabler, related = [], []
    for seed in seeds:
        runs = [movements[seed] for movements in moved.values()]
        finite = [m for m in runs if np.isfinite(m.late_drift) and np.isfinite(m.outcome.final_loss)]
        collapsed = [max(m.late_drift, STILL) for m in finite if m.collapsed]
        others = [max(m.late_drift, STILL) for m in finite if not m.collapsed]
        if collapsed and others:
            stabler.append(float(np.log(min(others) / np.mean(collapsed))))
        drift, loss = [m.late_drift for m in finite], [m.outcome.final_loss for m in finite]
        if len(finite) >= 4 and len(set(drift)) > 1 and len(set(loss)) > 1:
            related.append(float(stats.spearmanr(drift, loss).statistic))
    effects = [
        ratio(
            "collapsed networks are the most stable: drift",
            "ratio, least of the others / collapsed",
            stabler,
            threshold=STABLER,
        )
    ]
    for name in (ABOVE, EDGE, CONVERGES):
        # A user's network has no such condition: the hypothesis stays open, and with it the claim.
        gaps = [m.autocorrelation(2) - m.autocorrelation(1) for m in moved.get(name, ())]
        if not gaps and name != ABOVE:
            continue
        infinite = sum(not np.isfinite(gap) for gap in gaps)
        effects.append(
            difference(
                say("period 2 in the means: {condition}", condition=name),
                "autocorrelation, lag 2 − lag 1",
                [gap for gap in gaps if np.isfinite(gap)],
                threshold=PERIOD,
                primary=name == ABOVE,
                note=(
                    say("{count} networks that became infinite are left out", count=infinite)
                    if infinite
                    else ""
                ),
            )
        )
    effects.append(
        difference(
            "stability does not predict training",
            "rank correlation of drift and final loss",
            related,
            threshold=UNRELATED,
            rule="within",
        )
    )
    return effects


def _table(moved: Mapping[str, list[Movement]]) -> Table:
    def mean(values: Sequence[float]) -> float:
        finite = [value for value in values if np.isfinite(value)]
        return float(np.mean(finite)) if finite else np.nan

    watched = next(iter(moved.values()))[0].watched
    places = tuple(watched) if watched else ()
    rows: list[tuple[str | float | int, ...]] = [
        (
            name,
            say("{count} of {seeds}", count=sum(m.outcome.trains for m in movements), seeds=len(movements)),
            sum(m.collapsed for m in movements),
            sum(not np.isfinite(m.outcome.final_loss) for m in movements),
            mean([m.outcome.final_loss for m in movements]),
            *(mean([m.late(m.at(place)) for m in movements]) for place in places),
            mean([m.path for m in movements]),
            mean([100 * m.dead for m in movements]),
            mean([m.autocorrelation(1) for m in movements]),
            mean([m.autocorrelation(2) for m in movements]),
        )
        for name, movements in moved.items()
    ]
    columns = (
        "condition",
        "train",
        "collapsed",
        "not finite",
        "final loss",
        *(say("drift {place} (std)", place=place) for place in places),
        "path of the median (std)",
        "dead units (%)",
        "lag 1",
        "lag 2",
    )
    return Table("Conditions: means over the seeds that are finite", columns, tuple(rows))


def _words(moved: Mapping[str, list[Movement]], effects: Sequence[Effect]) -> tuple[str, ...]:
    """Answer the open question from the numbers."""
    drifts = {
        name: float(
            np.exp(
                np.mean([np.log(max(m.late_drift, STILL)) for m in movements if np.isfinite(m.late_drift)])
            )
        )
        for name, movements in moved.items()
        if any(np.isfinite(m.late_drift) for m in movements)
    }
    known = {name: drift for name, drift in drifts.items() if np.isfinite(drift)}
    sentences = []
    if known:
        least, most = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
        sentences.append(
            say(
                "Distributions move least in “{least}” (drift {low:.3g} standard deviations between records, "
                "geometric mean over seeds) and most in “{most}” ({high:.3g}).",
                least=least,
                low=known[least],
                most=most,
                high=known[most],
            )
        )
    collapsed = [
        name for name, movements in moved.items() if sum(m.collapsed for m in movements) * 2 > len(movements)
    ]
    if collapsed:
        sentences.append(
            say("Most seeds collapse, with a loss at chance, in: {conditions}.", conditions=listed(collapsed))
        )
    gone = sum(not np.isfinite(m.outcome.final_loss) for ms in moved.values() for m in ms)
    sentences.append(
        say(
            "{count} of {networks} networks became infinite.",
            count=gone,
            networks=sum(map(len, moved.values())),
        )
    )
    collapsed_are, period, related = (effect for effect in effects if effect.primary)
    sentences += [
        say("Are collapsed networks the most stable ones? {answer}", answer=_answer(collapsed_are)),
        say(
            "Do networks just above the largest rate oscillate with period 2? {answer}",
            answer=_answer(period),
        ),
    ]
    if related.seeds:
        inside = {"supported": "inside", "contradicted": "outside", "inconclusive": "not clearly inside"}
        zero = "" if related.low <= 0 <= related.high else ", though not zero"
        sentences.append(
            say(
                "Drift and final loss have a rank correlation of {numbers}: {inside} the margin of ±{margin:g} "
                "that was set beforehand{zero}.",
                numbers=_numbers(related),
                inside=inside[related.verdict],
                margin=UNRELATED,
                zero=zero,
            )
        )
    return tuple(sentences)


def _answer(effect: Effect) -> str:
    if not effect.seeds:
        return "Not decided: no network could be compared."
    answers = {"supported": "Yes", "contradicted": "No", "inconclusive": "Not decided"}
    return say(
        "{answer}: {unit} {numbers}.",
        answer=answers[effect.verdict],
        unit=effect.unit,
        numbers=_numbers(effect),
    )


def _numbers(effect: Effect) -> str:
    return say(
        "{estimate:.3g} (interval {low:.3g} to {high:.3g})",
        estimate=effect.estimate,
        low=effect.low,
        high=effect.high,
    )


CLAIM = Claim(TEXT, measure, takes_networks=True)
