"""Words and table of diverging-distributions: the notes' open question, answered from the numbers."""

from collections.abc import Mapping, Sequence

import numpy as np

from xhat.lang import listed, say
from xhat.study.claims._diverging_conditions import CONVERGES
from xhat.study.claims._drift import STILL, Movement
from xhat.study.result import Effect, Table

SWINGS = 0.5  # an autocorrelation at lag 2 above this and one at lag 1 below its negative: period 2, in words


def answer(moved: Mapping[str, list[Movement]], effects: Sequence[Effect]) -> tuple[str, ...]:
    """Say what the distributions do where networks do not train, and how the three hypotheses fared.

    Args:
        moved: By condition a network a seed.
        effects: The claim's; the three primary ones in the order of its threshold, and last the distance
            from a converging network's drift.
    """
    drifts = {name: drift for name, movements in moved.items() if np.isfinite(drift := _drift(movements))}
    sentences: list[str] = []
    if drifts:
        least, most = min(drifts, key=drifts.__getitem__), max(drifts, key=drifts.__getitem__)
        sentences.append(
            say(
                "Distributions move least in “{least}” (drift {low:.3g} standard deviations between records, "
                "geometric mean over seeds) and most in “{most}” ({high:.3g}).",
                least=least,
                low=drifts[least],
                most=most,
                high=drifts[most],
            )
        )
    sentences += [
        _one(name, movements, drifts)
        for name, movements in moved.items()
        if 2 * sum(m.outcome.trains for m in movements) < len(movements)
    ]
    gone = sum(not np.isfinite(m.outcome.final_loss) for ms in moved.values() for m in ms)
    sentences.append(
        say(
            "{count} of {networks} networks became infinite.",
            count=gone,
            networks=sum(map(len, moved.values())),
        )
    )
    stabler, period, related = (effect for effect in effects if effect.primary)
    return (
        *sentences,
        say("Are collapsed networks the most stable ones? {answer}", answer=_yes(stabler)),
        say("Do networks just above the largest rate oscillate with period 2? {answer}", answer=_yes(period)),
        say("Does stability predict training monotonically? {answer}", answer=_unrelated(related)),
        say(
            "Does the distance from the drift of “{converges}”, up or down, predict it? {answer}",
            converges=CONVERGES,
            answer=_unrelated(effects[-1]),
        ),
    )


def _drift(movements: Sequence[Movement]) -> float:
    """Return the geometric mean over the seeds that are finite; NaN if none is."""
    known = [np.log(max(m.late_drift, STILL)) for m in movements if np.isfinite(m.late_drift)]
    return float(np.exp(np.mean(known))) if known else np.nan


def _one(name: str, movements: Sequence[Movement], drifts: Mapping[str, float]) -> str:
    """Say what became of a condition in which most seeds do not train."""
    trains, collapsed = sum(m.outcome.trains for m in movements), sum(m.collapsed for m in movements)
    infinite = sum(not np.isfinite(m.outcome.final_loss) for m in movements)
    fates = say(
        "Most seeds of “{condition}” do not train: of {seeds}, {trains} train, {collapsed} stay at chance, "
        "{infinite} become infinite, {others} end elsewhere",
        condition=name,
        seeds=len(movements),
        trains=trains,
        collapsed=collapsed,
        infinite=infinite,
        others=len(movements) - trains - collapsed - infinite,
    )
    if name not in drifts:
        return say("{fates}.", fates=fates)
    parts: list[str] = [fates, _moves(name, drifts)]
    first, second = (_mean([m.autocorrelation(lag) for m in movements]) for lag in (1, 2))
    if second > SWINGS and first < -SWINGS:
        parts.append(say("their means swing with period 2"))
    return say("{parts}.", parts=listed(parts))


def _moves(name: str, drifts: Mapping[str, float]) -> str:
    if CONVERGES not in drifts or name == CONVERGES:
        return say("the distributions drift by {drift:.3g}", drift=drifts[name])
    ratio = drifts[name] / drifts[CONVERGES]
    if ratio < 1:
        return say(
            "the distributions drift {times:.3g} times less than in “{converges}”",
            times=1 / ratio,
            converges=CONVERGES,
        )
    return say(
        "the distributions drift {times:.3g} times as much as in “{converges}”",
        times=ratio,
        converges=CONVERGES,
    )


def _yes(effect: Effect) -> str:
    if not effect.seeds:
        return say("Not decided: no network could be compared.")
    answers = {"supported": "Yes", "contradicted": "No", "inconclusive": "Not decided"}
    return say(
        "{answer}: {unit} {numbers}.",
        answer=answers[effect.verdict],
        unit=effect.unit,
        numbers=_numbers(effect),
    )


def _unrelated(effect: Effect) -> str:
    """Answer from an effect whose support means that there is no relation."""
    if not effect.seeds:
        return say("Not decided: too few networks could be compared.")
    values = {"what": effect.unit, "numbers": _numbers(effect), "margin": effect.threshold}
    if effect.verdict == "inconclusive":
        return say(
            "Not decided: the {what}, {numbers}, is not clearly inside the margin of ±{margin:g} that was set "
            "beforehand.",
            **values,
        )
    if effect.verdict == "contradicted":
        return say(
            "Yes: the {what}, {numbers}, is outside the margin of ±{margin:g} that was set beforehand.",
            **values,
        )
    if effect.low <= 0 <= effect.high:
        return say(
            "No: the {what}, {numbers}, is inside the margin of ±{margin:g} that was set beforehand.",
            **values,
        )
    return say(
        "Hardly: the {what}, {numbers}, is inside the margin of ±{margin:g} that was set beforehand, though not "
        "zero.",
        **values,
    )


def _numbers(effect: Effect) -> str:
    return say(
        "{estimate:.3g} (interval {low:.3g} to {high:.3g})",
        estimate=effect.estimate,
        low=effect.low,
        high=effect.high,
    )


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else np.nan


def table(moved: Mapping[str, list[Movement]]) -> Table:
    """Return a row of numbers a condition."""
    watched = next(iter(moved.values()))[0].watched
    places = tuple(watched) if watched else ()
    rows: list[tuple[str | float | int, ...]] = [
        (
            name,
            say("{count} of {seeds}", count=sum(m.outcome.trains for m in movements), seeds=len(movements)),
            sum(m.collapsed for m in movements),
            sum(not np.isfinite(m.outcome.final_loss) for m in movements),
            _mean([m.outcome.final_loss for m in movements]),
            *(_mean([m.late(m.at(place)) for m in movements]) for place in places),
            _mean([m.path for m in movements]),
            _mean([100 * m.dead for m in movements]),
            _mean([m.autocorrelation(1) for m in movements]),
            _mean([m.autocorrelation(2) for m in movements]),
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
        "path of the percentiles (std)",
        "dead units (%)",
        "lag 1",
        "lag 2",
    )
    return Table("Conditions: means over the seeds that are finite", columns, tuple(rows))
