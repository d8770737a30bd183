"""Running statistics are not those of the batches, and outputs suffer.

Looked for: two things at once. First, in some channel the running mean or variance differs from that of the
batches by more than chance: at most 1% of healthy models have such a channel at all (Bonferroni's correction over
all channels of all norms, samples as units so that neighbouring pixels do not count twice, the running average's
own noise included). Second, statistics of the batches in place of the running ones, as `xhat.recalibrate_` writes
them, move the outputs by 0.5 of their spread over samples or more, after what chance moves is taken off; or by
0.25 or more where batches have class targets and the loss is the higher for the running ones, beyond chance (two
batches and 128 samples at least, one-sided paired Student test, 1%). It is an error from 1.0 on, with such a loss;
and, whatever outputs move by, where the accuracy is lower by 20 points or more for the running ones, and by more than
3 standard errors.

Why it harms: evaluation normalises with the running statistics. Where they are of other data or of earlier weights,
every layer behind gets inputs that it was not trained on: good in training mode, bad in evaluation mode.

Source: Ioffe and Szegedy 2015, sec. 3.1; Wu and Johnson 2021, arXiv 2105.07576, sec. 3, on the running average and
precise statistics; pytorch issues 4741, 5406 and 100048.

Remedy: recalibrate on training data, or, if the batches given are not prepared as the training data were, prepare
them so:

    xhat.recalibrate_(model, batches)

Repair: `xhat.repair` recalibrates on the batches.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy import stats

from xhat.doctor._chance import Differing, Running, differing
from xhat.doctor.case import Case
from xhat.doctor.finding import Finding, Severity
from xhat.doctor.observe import Observed
from xhat.doctor.rule import Rule, found
from xhat.doctor.rules._recalibration import recalibrate
from xhat.lang import Phrase, listed, say

EFFECT = 0.5  # of the outputs' spread
EFFECT_HARMFUL = 0.25  # where the loss says that it harms
MANY = 128  # samples that can say so
RATE = 0.01
BROKEN = 1.0
FALL = 0.2  # of accuracy
ERRORS = 3.0  # standard errors that a fall is beyond
SHOWN = 3


def check(case: Case) -> Iterator[Finding]:
    """Compare running statistics with those of the batches, and what both make of the outputs."""
    observed = case.observed
    assert observed is not None
    effect = effect_of(observed)
    harms, falls = _harms(observed), _falls(observed)
    if effect is None or not (falls or effect >= (EFFECT_HARMFUL if harms else EFFECT)):
        return
    differ = differing(observed.seen, running(case))
    beyond = {name: d for name, d in differ.items() if bool(d.beyond.any())}
    if not beyond:
        return
    gap = observed.running_to_pooled
    assert gap is not None
    worst = sorted(beyond, key=lambda name: -_size(beyond[name]))
    evidence: dict[str, Any] = {
        "relative": effect,
        "flips": gap.flips,
        "norms": worst,
        "channels": sum(int(d.beyond.sum()) for d in beyond.values()),
        "of_channels": sum(len(d.beyond) for d in differ.values()),
        "mean_difference": [float(beyond[name].mean[_at(beyond[name])]) for name in worst],
        "variance_ratio": [float(beyond[name].ratio[_at(beyond[name])]) for name in worst],
    }
    for name, score in observed.scores.items():
        evidence |= {f"loss_{name}": score.loss, f"accuracy_{name}": score.accuracy}
    worse = _recalibrated_is_worse(observed)
    yield found(
        "BN302",
        "" if len(worst) > 1 else worst[0],
        _message(observed, effect, evidence, beyond, worst),
        evidence=evidence,
        remedy=say(
            "The loss is lower with the running statistics, so these batches are rather not what the model was "
            "trained on: check how inputs are prepared."
        )
        if worse
        else say(
            "Recalibrate on training data: xhat.recalibrate_(model, batches). If these batches are few, or not "
            "prepared as the training data were, diagnose with others first."
        ),
        severity=Severity.error if falls or (effect >= BROKEN and harms) else Severity.warning,
        repairable=not worse,
    )


def effect_of(observed: Observed) -> float | None:
    """Return by how much recalibrating moves outputs, in spreads, chance taken off; None without outputs."""
    if observed.running_to_pooled is None:
        return None
    return math.sqrt(max(observed.running_to_pooled.square - observed.chance.pooled, 0.0))


def running(case: Case) -> Mapping[str, Running]:
    """Return the running statistics of the norms that have any."""
    found = {}
    for name, norm in case.norms.items():
        statistics = case.statistics(name)
        if statistics is not None:
            tracked = norm.num_batches_tracked
            found[name] = Running(
                statistics.mean,
                statistics.variance,
                statistics.eps,
                norm.momentum,
                0 if tracked is None else int(tracked),
            )
    return found


def _harms(observed: Observed) -> bool:
    """Return whether the loss is higher with the running statistics, by more than chance."""
    if "running" not in observed.scores or len(observed.samples) < 2 or sum(observed.samples) < MANY:
        return False
    more = (observed.scores["running"].losses - observed.scores["pooled"].losses).numpy()
    if not np.isfinite(more).all():
        return bool(observed.scores["pooled"].losses.isfinite().all())
    return bool(more.std() > 0 and stats.ttest_1samp(more, 0, alternative="greater").pvalue < RATE)


def _falls(observed: Observed) -> bool:
    """Return whether the accuracy is far lower with the running statistics, by more than chance."""
    if "running" not in observed.scores or "pooled" not in observed.scores:
        return False
    by_running, by_pooled = (observed.scores[name] for name in ("running", "pooled"))
    fall = by_pooled.accuracy - by_running.accuracy
    count = len(by_pooled.losses)
    # Both shares as independent: wider than the paired difference's own, which is not kept.
    error = math.sqrt(sum(a * (1 - a) for a in (by_pooled.accuracy, by_running.accuracy)) / count)
    return fall >= FALL and fall > ERRORS * error


def _recalibrated_is_worse(observed: Observed) -> bool:
    """Return whether the loss is higher with statistics of the batches, where there are targets."""
    scores = observed.scores
    return "running" in scores and scores["pooled"].loss > scores["running"].loss


def _message(
    observed: Observed,
    effect: float,
    evidence: Mapping[str, Any],
    beyond: Mapping[str, Differing],
    worst: list[str],
) -> Phrase:
    layers = listed([_layer(name, beyond[name]) for name in worst[:SHOWN]])
    parts = [
        say(
            "running statistics differ from those of the batches by more than chance in {channels} of {of} channels "
            "({norms} norms), and statistics of the batches move outputs by {effect:.2f} of their spread",
            channels=evidence["channels"],
            of=evidence["of_channels"],
            norms=len(worst),
            effect=effect,
        )
    ]
    if "running" in observed.scores:
        parts.append(
            say(
                "accuracy {before:.1%} with the running ones, {after:.1%} with the batches'",
                before=observed.scores["running"].accuracy,
                after=observed.scores["pooled"].accuracy,
            )
        )
    elif observed.running_to_pooled is not None and observed.running_to_pooled.flips is not None:
        parts.append(say("{flips:.1%} of samples change class", flips=observed.running_to_pooled.flips))
    return say("{parts}; most in {layers}", parts=listed(parts), layers=layers)


def _layer(name: str, differs: Differing) -> Phrase:
    at = _at(differs)
    return say(
        "{name} channel {channel}: mean off by {off:.2g}σ, variance {ratio:.2g}× the batches'",
        name=name,
        channel=at,
        off=float(differs.mean[at]),
        ratio=float(differs.ratio[at]),
    )


def _at(differs: Differing) -> int:
    """Return the channel that differs most among those beyond chance."""
    size = differs.mean.abs() + differs.ratio.clamp(min=1e-12).log().abs()
    return int(size.nan_to_num(0.0).masked_fill(~differs.beyond, -1.0).argmax())


def _size(differs: Differing) -> float:
    at = _at(differs)
    return abs(float(differs.mean[at])) + abs(math.log(max(float(differs.ratio[at]), 1e-12)))


RULE = Rule(
    "BN302",
    "statistics-differ",
    check,
    needs=frozenset({"batches"}),
    repair=recalibrate,
    explained_by=("BN201", "BN202", "BN203", "BN301", "BN303", "BN304", "BN305", "BN501"),
)
