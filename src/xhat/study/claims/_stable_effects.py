"""What the claim "stable-training" compares: spikes of the loss, failures over rates, the spread over seeds."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from xhat.lang import listed, say
from xhat.study.claims._arms import on_rates
from xhat.study.claims._late import late_accuracy
from xhat.study.claims._spread import sd_ratio
from xhat.study.claims._stability import failing, rate_of_spikes
from xhat.study.claims._stable_figures import ARMS, Failed, Trained
from xhat.study.claims._tuned import Tuned
from xhat.study.curves import ARM_NAMES
from xhat.study.outcome import Outcome
from xhat.study.result import Effect
from xhat.study.verdict import difference

# Committed before the first run.
SPIKES = 1.0  # points: per cent of steps that are spikes, none − batch
FAILURES = 10.0  # points: per cent of the grid's rates at which a seed fails, none − batch
SPREAD = 0.0  # points of test accuracy between a seed and its arm's median, none − batch

RATIO = "ratio of standard deviations, none / batch"


def spikes(
    name: str,
    trained: Trained,
    *,
    rate: Callable[[Outcome], float] = rate_of_spikes,
    primary: bool = False,
) -> Effect:
    """Compare how often the loss leaps, over seeds that train in both arms."""
    pairs = list(zip(trained["none"], trained["batch"], strict=True))
    both = [pair for pair in pairs if pair[0].trains and pair[1].trains]
    shares = 100 * np.array([[rate(outcome) for outcome in pair] for pair in both]).reshape(-1, 2)
    shares = shares[np.isfinite(shares).all(1)]
    notes = []
    if len(both) < len(pairs):
        notes.append(say("{count} seeds left out, where an arm does not train", count=len(pairs) - len(both)))
    if len(shares) and shares[:, 0].mean() < SPIKES:
        notes.append(
            say(
                "the plain network has only {share:.2g}% spikes: more than {share:.2g} points were not possible",
                share=float(shares[:, 0].mean()),
            )
        )
    return difference(
        name,
        "points of steps, none − batch",
        list(shares[:, 0] - shares[:, 1]),
        threshold=SPIKES,
        primary=primary,
        note=listed(notes),
    )


def failures(name: str, tried: Failed, *, infinite: bool = False, primary: bool = False) -> Effect:
    """Compare at how many rates of a grid seeds fail; at least, where at its top only plain ones do."""
    fails = {arm: np.array([failing(of, infinite=infinite) for of in tried[arm].values()]) for arm in ARMS}
    share = {arm: 100 * fails[arm].mean(0) for arm in ARMS}
    rates = list(tried["none"])
    apart = share["none"] - share["batch"]
    notes = [say("{count} rates from {low:g} to {high:g}", count=len(rates), low=rates[0], high=rates[-1])]
    if len(apart) > 1 and np.ptp(apart) == 0:
        notes.append(
            say("all seeds alike; one rate of the grid is {points:.1f} points", points=100 / len(rates))
        )
    return difference(
        name,
        "points of rates, none − batch",
        list(apart),
        threshold=FAILURES,
        primary=primary,
        at_least=bool((fails["none"][-1] & ~fails["batch"][-1]).any()),
        note=listed(notes),
    )


def spread(name: str, best: Mapping[str, Tuned], *, primary: bool) -> Effect:
    """Compare how far seeds lie from their arm's median; seeds that fail alike are not stable."""
    failing_ = _mostly_failing(best)
    distance = {arm: np.abs(best[arm].accuracy - np.median(best[arm].accuracy)) for arm in ARMS}
    return difference(
        name,
        "points of accuracy, none − batch",
        [] if failing_ else list(distance["none"] - distance["batch"]),
        threshold=SPREAD,
        primary=primary,
        note=listed(filter(None, (_most_do_not_train(failing_), on_rates(best)))),
    )


def spread_ratio(name: str, best: Mapping[str, Tuned]) -> Effect:
    """Compare the standard deviations of the same accuracies."""
    failing_ = _mostly_failing(best)
    none, batch = (best[arm].accuracy[: 0 if failing_ else None] for arm in ARMS)
    return sd_ratio(name, RATIO, none, batch, note=_most_do_not_train(failing_))


def late_spread_ratio(name: str, best: Mapping[str, Tuned]) -> Effect:
    """Compare the standard deviations of late accuracy over seeds that train in both arms."""
    pairs = list(zip(best["none"].outcomes, best["batch"].outcomes, strict=True))
    both = [pair for pair in pairs if pair[0].trains and pair[1].trains]
    late = np.array([[late_accuracy(outcome) for outcome in pair] for pair in both]).reshape(-1, 2)
    left_out = len(pairs) - len(both)
    return sd_ratio(
        name,
        RATIO,
        late[:, 0],
        late[:, 1],
        note=say("{count} seeds left out, where an arm does not train", count=left_out) if left_out else "",
    )


def _mostly_failing(best: Mapping[str, Tuned]) -> list[str]:
    return [arm for arm in ARMS if np.mean([o.trains for o in best[arm].outcomes]) < 0.5]


def _most_do_not_train(arms: Sequence[str]) -> str:
    return listed([say("most seeds of {arm} do not train", arm=ARM_NAMES[arm]) for arm in arms])
