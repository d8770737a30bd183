"""stable-training: with BN training is more stable.

Source: Ioffe and Szegedy 2015 (arXiv 1502.03167) say so; the protocol is ours. No number is known.
Cost on 2 cores: quick about 1.5 minutes, full about 9; most of it is shared with other claims.
Command: xhat study --claims stable-training
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from xhat.lang import say
from xhat.study.claim import Claim, Context, Measurement, Subject, together
from xhat.study.claims._rates import RATES as FINE
from xhat.study.claims._rates import on_grid
from xhat.study.claims._stability import WINDOW, rate_of_spikes
from xhat.study.claims._stable_effects import (
    FAILURES,
    SPIKES,
    SPREAD,
    failures,
    late_spread_ratio,
    spikes,
    spread,
    spread_ratio,
)
from xhat.study.claims._stable_figures import ARMS, Failed, failures_figure, losses_figure, table, words
from xhat.study.claims._tuned import RATES, Tuned, standard, tuned
from xhat.study.outcome import Outcome, outcomes, specs
from xhat.study.result import ClaimResult, ClaimText, Effect, overall
from xhat.study.spec import Member, TrainSpec
from xhat.study.store import Run
from xhat.study.subjects import mlp, resnet, subjects_table, vgg

# Committed before the first run, as are SPIKES, FAILURES and SPREAD in _stable_effects.py.
RATE = 0.1  # the learning rate that both arms share, and the lowest one at which failing is counted

TEXT = ClaimText(
    id="stable-training",
    title="Batch norm makes training more stable",
    says="With BN the training process is more stable.",
    measured=(
        f"Loss spikes: steps whose batch loss exceeds the median of the {WINDOW} steps before it by more than "
        f"half of that median and by more than a tenth of chance (ln C), in per cent of all steps; both arms at "
        f"rate {RATE:g}, with the same batches. Beside: both at the plain network's own best rate, each at its "
        f"own, and at rate {RATE:g} in the second half only and by the first of the two conditions alone. "
        f"Failures: per cent of a grid's rates, from {RATE:g} up, at which a seed becomes infinite or does not "
        "train; slow training at small rates is so not counted. Spread: distance of a seed's test accuracy "
        "from its arm's median, each arm at its own best rate. Beside: the ratio of the standard deviations, "
        "of the same accuracies and of the mean of the last three measurements."
    ),
    threshold=(
        f"Supported if without BN spikes are more frequent by over {SPIKES:g} point on each network, and on "
        f"the MLP failures by over {FAILURES:g} points and the spread larger (by over {SPREAD:g} points), each "
        "with the whole 95% interval. Of a user's network spikes and spread decide. Failures of networks other "
        "than the MLP stand in the table: too few of their seeds try all rates."
    ),
    does_not_show=(
        "Networks that do not train have no spikes worth counting: such pairs are left out of spikes, and "
        "counted as failures. Spikes can exceed BN's by no more than the plain network has. Part of the spikes "
        "is the noise of batches. Below a loss of a fifth of chance (0.46 with ten classes) the second "
        "condition binds, and the arm with the higher loss, whose noise is larger, gets more of them; and the "
        "median of the steps before lies above a loss that falls fast, and hides its spikes. Both speak for "
        "the arm that learns faster, as a rule BN. Failures measure the range of rates, as larger-lr does: the "
        "two claims are not independent. The distances of seeds from their median are not independent, so "
        "that the interval of the spread is a rough one, and ten pairs tell little: if one standard deviation "
        "is twice the other, the chance of being supported is about 27%; the ratio of standard deviations "
        "beside tells more (about 49%)."
    ),
    source="Ours, after [IS] Ioffe, Szegedy 2015, arXiv 1502.03167, sec. 3.3.",
    expected="No number is known.",
    cost="quick: about 1.5 minutes; full: about 9 minutes; most of it is shared with other claims",
    changes=(
        "Comparisons were added outside the verdict: spikes at the plain network's best rate, in the second "
        "half and by one condition, and ratios of standard deviations. Failures of VGG and ResNet, of few "
        "seeds and outside the verdict, are no effects any more, but stand in the table. Those of the MLP are "
        "given as at least so large where at the grid's top only the plain network fails. What was said of "
        "the noise of batches was wrong and is corrected. In full three of the six seeds of VGG and ResNet choose "
        "their rates, not two."
    ),
)


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
            table([(each.subject.name, each.same, each.plains, each.best, each.failed) for each in seen]),
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
    found = [
        spikes(
            say("loss spikes at rate {rate:g}, {network}", rate=RATE, network=name), seen.same, primary=True
        ),
        spikes(
            say("loss spikes at rate {rate:g}, second half only, {network}", rate=RATE, network=name),
            seen.same,
            rate=partial(rate_of_spikes, late=True),
        ),
        spikes(
            say("loss spikes at rate {rate:g}, relative condition alone, {network}", rate=RATE, network=name),
            seen.same,
            rate=partial(rate_of_spikes, excess=0.0),
        ),
        spikes(say("loss spikes at the plain network's best rate, {network}", network=name), seen.plains),
        spikes(
            say("loss spikes at each arm's best rate, {network}", network=name),
            {arm: seen.best[arm].outcomes for arm in ARMS},
        ),
    ]
    if seen.subject.network.is_ensemble:  # of others too few seeds try all rates: they stand in the table
        found += [
            failures(say("rates at which a seed fails, {network}", network=name), seen.failed, primary=leads),
            failures(
                say("rates at which a seed becomes infinite, {network}", network=name),
                seen.failed,
                infinite=True,
            ),
        ]
    return [
        *found,
        spread(say("spread of test accuracy over seeds, {network}", network=name), seen.best, primary=leads),
        spread_ratio(say("spread of test accuracy over seeds, {network}", network=name), seen.best),
        late_spread_ratio(
            say("spread of late test accuracy over seeds that train, {network}", network=name), seen.best
        ),
    ]


CLAIM = Claim(TEXT, measure, takes_networks=True)
