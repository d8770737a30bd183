"""Numbers, durations and times as the page writes them."""

import math
import re
from datetime import UTC, datetime

from xhat.study.result import ClaimResult, Table

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, *, short: bool = False) -> str:
    """Write a number: whole ones in full, others with three significant digits; "–" for NaN.

    Short leaves trailing zeros away: a threshold is 0.5, an estimate 0.500.
    """
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    mantissa, exponent = f"{value:.2e}".split("e")
    power = int(exponent)
    if value and not -4 <= power < 6:
        shown = mantissa
        ending = f" × 10{str(power).translate(_SUPERSCRIPTS)}"
    else:
        shown, ending = f"{float(f'{value:.3g}'):,.{max(0, 2 - power)}f}", ""
    if "." in shown and (short or not value):
        shown = shown.rstrip("0").rstrip(".")
    return shown.replace("-", "−") + ending


def short(value: float) -> str:
    """Write a number that was chosen, not measured."""
    return number(value, short=True)


def columns(table: Table, *, yes: str = "yes", no: str = "no") -> list[tuple[bool, list[str]]]:
    """Return a table's columns: whether they are numbers, to be set flush right, and their cells.

    A column of numbers that three digits hold exactly, such as learning rates, is written short.
    """
    made = []
    for nth in range(len(table.columns)):
        values = [(yes if row[nth] else no) if isinstance(row[nth], bool) else row[nth] for row in table.rows]
        floats = [value for value in values if isinstance(value, float) and math.isfinite(value)]
        exact = all(value == float(f"{value:.3g}") for value in floats)
        cells = [value if isinstance(value, str) else number(value, short=exact) for value in values]
        made.append((nth > 0 and any(not isinstance(value, str) for value in values), cells))
    return made


def wide(table: Table) -> bool:
    """Return whether a table is so long or broad that the page keeps it folded."""
    return len(table.rows) > 8 or len(table.columns) > 6


def seeds(claim: ClaimResult) -> str:
    """Return the number of seeds behind a claim's effects, as a range where they differ."""
    counts = sorted({effect.seeds for effect in claim.effects})
    return "–".join(str(count) for count in dict.fromkeys(counts[:1] + counts[-1:])) or "–"


def duration(seconds: float) -> str:
    """Write a duration in its two largest units."""
    if not math.isfinite(seconds) or seconds < 0:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, below, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


def moment(iso: str) -> str:
    """Write an ISO 8601 time in UTC to the minute; what is no such time stays as it is."""
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    if when.tzinfo is not None:
        when = when.astimezone(UTC)
    return f"{when:%Y-%m-%d %H:%M} UTC"


def anchor(name: str) -> str:
    """Return a name fit for an element's id and for a link to it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x"
