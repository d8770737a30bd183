"""Which fields of a result are words that are shown, to read them all or to say them in another language."""

from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from typing import Any, TypeVar

from xhat.lang import Translate
from xhat.study.result import (
    Axis,
    ClaimResult,
    ClaimText,
    Curve,
    Effect,
    Figure,
    Frame,
    Heat,
    LawCheck,
    LawResult,
    Panel,
    Study,
    Table,
)

T = TypeVar("T")

# Names, keys and verdicts are not here: the first two stay as they are, the page says the last.
_SHOWN: dict[type, tuple[str, ...]] = {
    Study: ("asked", "claims", "laws", "problems"),
    ClaimResult: ("text", "found", "effects", "figures", "tables"),
    ClaimText: (
        "title",
        "says",
        "measured",
        "threshold",
        "does_not_show",
        "source",
        "expected",
        "cost",
        "changes",
    ),
    LawResult: ("title", "statement", "source", "checks", "figures", "tables", "note"),
    LawCheck: ("name",),
    Effect: ("name", "unit", "note"),
    Figure: ("title", "caption", "alt", "panels", "frames", "slider"),
    Frame: ("label", "panels"),
    Panel: ("title", "x", "y", "curves", "heat"),
    Heat: ("title",),
    Axis: ("title",),
    Curve: ("name",),
    Table: ("title", "columns", "rows"),
}


def texts_of(result: Any) -> Iterator[str]:
    """Yield every text that is shown of a study, or of a part of one, as it came: plain or a phrase."""
    if isinstance(result, str):
        if result:
            yield result
    elif isinstance(result, tuple):
        for item in result:
            yield from texts_of(item)
    elif is_dataclass(result):
        for name in _SHOWN[type(result)]:
            yield from texts_of(getattr(result, name))


def translated(result: T, translate: Translate) -> T:
    """Return a study, or a part of one, with every shown text translated."""
    found: Any = result
    if isinstance(found, str):
        found = translate(found) if found else found
    elif isinstance(found, tuple):
        found = tuple(translated(item, translate) for item in found)
    elif is_dataclass(found) and not isinstance(found, type):
        words = {name: translated(getattr(found, name), translate) for name in _SHOWN[type(found)]}
        found = replace(found, **words)
    made: T = found
    return made
