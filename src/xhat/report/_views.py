"""What the page shows of a claim: its words in the page's language, beside the shipped run's numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from xhat.lang import Translate
from xhat.report._bars import Bar, bar, is_ratio
from xhat.report._texts import translated
from xhat.report._words import anchor
from xhat.study.result import ClaimResult, Effect, Study, Verdict

OPEN_QUESTION = "diverging-distributions"


@dataclass(frozen=True)
class Row:
    """An effect of this run, of the shipped one, or of both; ``words`` is translated, numbers are as found."""

    words: Effect
    here: Effect | None
    full: Effect | None
    bar: Bar | None  # of this run


@dataclass(frozen=True)
class ClaimView:
    """A claim as the page shows it."""

    id: str  # of its section
    claim: ClaimResult  # translated
    deciding: tuple[Row, ...]
    others: tuple[Row, ...]  # outside the verdict
    telling: Row | None  # the effect that the first screen shows
    held: int  # deciding effects of this run that are supported
    parts: int  # deciding effects of this run
    full: Verdict | None  # the shipped run's verdict


def views(study: Study, beside: Study | None, translate: Translate) -> tuple[ClaimView, ...]:
    """Return every claim of a study, with what the shipped one found of it.

    Claims are matched by name, effects by name and unit: an arm may stand in the unit alone.
    """
    shipped = {claim.text.id: claim for claim in beside.claims} if beside else {}
    return tuple(_view(claim, shipped.get(claim.text.id), translate) for claim in study.claims)


def _view(claim: ClaimResult, shipped: ClaimResult | None, translate: Translate) -> ClaimView:
    theirs = {_key(effect): effect for effect in shipped.effects} if shipped else {}
    rows = [
        Row(translated(effect, translate), effect, theirs.get(_key(effect)), bar(effect))
        for effect in claim.effects
    ]
    known = {_key(effect) for effect in claim.effects}
    alone = [
        Row(translated(effect, translate), None, effect, None)
        for key, effect in theirs.items()
        if key not in known and effect.primary
    ]
    told = telling(claim)
    return ClaimView(
        id=f"claim-{anchor(claim.text.id)}",
        claim=translated(claim, translate),
        deciding=(*(row for row in rows if row.words.primary), *alone),
        others=tuple(row for row in rows if not row.words.primary),
        telling=next((row for row in rows if row.here is told), None),
        held=sum(effect.primary and effect.verdict == "supported" for effect in claim.effects),
        parts=sum(effect.primary for effect in claim.effects),
        full=shipped.verdict if shipped else None,
    )


def _key(effect: Effect) -> tuple[str, str]:
    return effect.name, effect.unit


def telling(claim: ClaimResult) -> Effect | None:
    """Return the primary effect on which the verdict hangs.

    Of a supported claim its weakest part, of a contradicted one the part that speaks most against it, of an
    open one the part that leaves it open.
    """
    primary = [effect for effect in claim.effects if effect.primary]
    bearing = [effect for effect in primary if effect.verdict == claim.verdict] or [
        effect for effect in primary if effect.verdict == "contradicted"
    ]
    return min(bearing or primary, key=_margin, default=None)


def _margin(effect: Effect) -> float:
    """Return how far the estimate lies on the threshold's right side, in half widths of its interval."""
    values: Sequence[float] = (effect.estimate, effect.low, effect.high, effect.threshold)
    if effect.rule == "within":
        values = (-abs(effect.estimate), effect.low, effect.high, -effect.threshold)
    elif is_ratio(effect) and all(value > 0 for value in values):
        values = [math.log(value) for value in values]
    estimate, low, high, threshold = values
    margin = (estimate - threshold) / ((high - low) / 2) if high > low else math.inf * (estimate - threshold)
    return -math.inf if math.isnan(margin) else margin
