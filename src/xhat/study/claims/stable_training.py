"""stable-training: with BN training is more stable.

Source: Ioffe and Szegedy 2015 (arXiv 1502.03167) say so; the protocol is ours. No number is known.
Cost on 2 cores: quick about 1.5 minutes, full about 8; most of it is shared with other claims.
Command: xhat study --claims stable-training
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xhat.lang import listed, say
from xhat.study.claim import Claim, Context, Measurement, Subject, together
from xhat.study.claims._rates import RATES as FINE
from xhat.study.claims._rates import on_grid
from xhat.study.claims._stability import WINDOW, rate_of_spikes
from xhat.study.claims._stable_figures import ARMS, Failed, failures_figure, losses_figure, table, words
from xhat.study.claims._tuned import RATES, Tuned, standard, tuned
from xhat.study.outcome import Outcome, outcomes, specs
from xhat.study.result import ClaimResult, ClaimText, Effect, overall
from xhat.study.spec import Member, TrainSpec
from xhat.study.store import Run
from xhat.study.subjects import mlp, resnet, subjects_table, vgg
from xhat.study.verdict import difference

# Committed before the first run.
RATE = 0.1  # the learning rate that both arms share, and the lowest one at which failing is counted
SPIKES = 1.0  # points: per cent of steps that are spikes, none − batch
FAILURES = 10.0  # points: per cent of the grid's rates at which a seed fails, none − batch
SPREAD = 0.0  # points of test accuracy between a seed and its arm's median, none − batch

TEXT = ClaimText(
    id="stable-training",
    title="Batch norm makes training more stable",
    says="With BN the training process is more stable.",
    measured=(
        f"Loss spikes: steps whose batch loss exceeds the median of the {WINDOW} steps before it by more than "
        f"half of that median and by more than a tenth of chance (ln C), in per cent of all steps; both arms at "
        f"rate {RATE:g}, with the same batches. Failures: per cent of a grid's rates, from {RATE:g} up, at "
        "which a seed becomes infinite or does not train; slow training at small rates is so not counted. "
        "Spread: distance of a seed's test accuracy from its arm's median, each arm at its own best rate."
    ),
    threshold=(
        f"Supported if without BN spikes are more frequent by over {SPIKES:g} point on each network, and on "
        f"the MLP failures by over {FAILURES:g} points and the spread larger (by over {SPREAD:g} points), each "
        "with the whole 95% interval. On a user's network failures are shown beside."
    ),
    does_not_show=(
        "Networks that do not train have no spikes worth counting: such pairs are left out of spikes, and "
        "counted as failures. Part of the spikes is the noise of batches; it grows as the loss falls, "
        "relative to it, which counts against the arm that has learned more. The distances of "
        "seeds from their median are not independent, so that the interval of the spread is a rough one."
    ),
    source="Ours, after [IS] Ioffe, Szegedy 2015, arXiv 1502.03167, sec. 3.3.",
    expected="No number is known.",
    cost="quick: about 1.5 minutes; full: about 8 minutes; most of it is shared with other claims",
)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """What was trained of one network."""

    subject: Subject
    same: Mapping[str, Sequence[Outcome]]  # by arm, at the shared rate, one a seed
    plains: Mapping[str, Sequence[Outcome]]  # by arm, at the plain network's best rate, one a seed
    best: Mapping[str, Tuned]
    failed: Failed  # by arm and rate, a seed each
    keys: tuple[str, ...]


def measure(context: Context) -> Measurement:
    """Count spikes at a shared rate, failures over rates, and the spread over seeds."""
    subjects = context.subjects(mlp(context.preset), vgg(context.preset), resnet(context.preset))
    seen = yield from together(*(_train(subject) for subject in subjects))
    effects = [effect for each in seen for effect in _effects(each, leads=each is seen[0])]
    return ClaimResult(
        TEXT,
        overall(effects),
        tuple(sentence for each in seen for sentence in words(each.subject.name, each.same, each.failed)),
        tuple(effects),
        (
            losses_figure([(each.subject.name, each.same) for each in seen], RATE),
            failures_figure([(each.subject.name, each.failed) for each in seen]),
        ),
        (
            table([(each.subject.name, each.same, each.best, each.failed) for each in seen]),
            subjects_table(*subjects),
        ),
        runs=tuple(dict.fromkeys(key for each in seen for key in each.keys)),
    )


def _train(subject: Subject) -> Generator[Sequence[TrainSpec], Sequence[Run], Seen]:
    networks = {arm: subject.network.with_norm(arm) for arm in ARMS}
    best, keys = yield from tuned(subject, networks)
    (same, more), (plains, others) = yield from together(
        _at(RATE, subject, best), _at(best["none"].rate, subject, best)
    )
    keys = (*keys, *more, *others)
    if not subject.network.is_ensemble:
        tried = {arm: {rate: best[arm].tried[rate] for rate in RATES if rate >= RATE} for arm in ARMS}
        return Seen(subject, same, plains, best, tried, keys)
    trained, runs = yield from on_grid(subject, ARMS)
    fine = {
        arm: {
            rate: tuple(trained[arm, Member(seed, rate, subject.init)] for seed in range(subject.seeds))
            for rate in FINE
            if rate >= RATE
        }
        for arm in ARMS
    }
    return Seen(subject, same, plains, best, fine, (*keys, *(run.key for run in runs)))


def _at(
    rate: float, subject: Subject, best: Mapping[str, Tuned]
) -> Generator[Sequence[TrainSpec], Sequence[Run], tuple[dict[str, list[Outcome]], tuple[str, ...]]]:
    """Return all seeds of both arms at one rate of the grid; those that tuning left out are trained."""
    networks = {arm: subject.network.with_norm(arm) for arm in ARMS}
    tried = {arm: list(best[arm].tried[rate]) for arm in ARMS}
    members = [Member(seed, rate, subject.init) for seed in range(len(tried["none"]), subject.seeds)]
    if not members:
        return tried, ()
    wanted = [spec for arm in ARMS for spec in specs(networks[arm], members, standard(subject))]
    runs = yield wanted
    found = outcomes(wanted, runs)
    for arm in ARMS:
        tried[arm] += [found[networks[arm], member] for member in members]
    return tried, tuple(run.key for run in runs)


def _effects(seen: Seen, *, leads: bool) -> list[Effect]:
    name = seen.subject.name
    unit = "points of steps, none − batch"
    return [
        _spikes(say("loss spikes at rate {rate:g}, {network}", rate=RATE, network=name), unit, seen.same),
        _spikes(
            say("loss spikes at the plain network's best rate, {network}", network=name),
            unit,
            seen.plains,
            primary=False,
        ),
        _spikes(
            say("loss spikes at each arm's best rate, {network}", network=name),
            unit,
            {arm: seen.best[arm].outcomes for arm in ARMS},
            primary=False,
        ),
        _failures(
            say("rates at which a seed fails, {network}", network=name),
            seen.failed,
            infinite=False,
            primary=leads and seen.subject.network.is_ensemble,
        ),
        _failures(
            say("rates at which a seed becomes infinite, {network}", network=name),
            seen.failed,
            infinite=True,
            primary=False,
        ),
        _spread(say("spread of test accuracy over seeds, {network}", network=name), seen.best, primary=leads),
    ]


def _spikes(
    name: str, unit: str, trained: Mapping[str, Sequence[Outcome]], *, primary: bool = True
) -> Effect:
    pairs = list(zip(trained["none"], trained["batch"], strict=True))
    shares = [
        100 * (rate_of_spikes(plain) - rate_of_spikes(batch))
        for plain, batch in pairs
        if plain.trains and batch.trains
    ]
    left_out = len(pairs) - len(shares)
    return difference(
        name,
        unit,
        [share for share in shares if np.isfinite(share)],
        threshold=SPIKES,
        primary=primary,
        note=say("{count} seeds left out, where an arm does not train", count=left_out) if left_out else "",
    )


def _failures(name: str, tried: Failed, *, infinite: bool, primary: bool) -> Effect:
    def share(arm: str) -> Floats:
        fails = [
            [not np.isfinite(o.loss).all() if infinite else not o.trains for o in outcomes_]
            for outcomes_ in tried[arm].values()
        ]
        mean: Floats = np.mean(fails, axis=0)
        return 100 * mean

    rates = list(tried["none"])
    return difference(
        name,
        "points of rates, none − batch",
        list(share("none") - share("batch")),
        threshold=FAILURES,
        primary=primary,
        note=say("{count} rates from {low:g} to {high:g}", count=len(rates), low=rates[0], high=rates[-1]),
    )


def _spread(name: str, best: Mapping[str, Tuned], *, primary: bool) -> Effect:
    """Compare how far seeds lie from their arm's median; seeds that fail alike are not stable."""
    trains = {arm: np.mean([outcome.trains for outcome in best[arm].outcomes]) for arm in ARMS}
    failing = [arm for arm in ARMS if trains[arm] < 0.5]
    distance = {arm: np.abs(best[arm].accuracy - np.median(best[arm].accuracy)) for arm in ARMS}
    return difference(
        name,
        "points of accuracy, none − batch",
        [] if failing else list(distance["none"] - distance["batch"]),
        threshold=SPREAD,
        primary=primary,
        note=listed([say("most seeds of {arm} do not train", arm=arm) for arm in failing]),
    )


CLAIM = Claim(TEXT, measure, takes_networks=True)
