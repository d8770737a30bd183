"""Numbers, durations and times as the page writes them."""

import math
import re
from datetime import UTC, datetime

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float) -> str:
    """Write a number: whole ones in full, others with three significant digits; "–" for NaN.

    A number that three digits hold exactly loses its trailing zeros: a rate is 0.1, a mean 0.100.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    mantissa, exponent = f"{value:.2e}".split("e")
    power = int(exponent)
    if value and not -4 <= power < 6:
        shown = f"{float(mantissa):g} × 10{str(power).translate(_SUPERSCRIPTS)}"
    else:
        rounded = float(f"{value:.3g}")
        shown = f"{rounded:g}" if rounded == value and power < 3 else f"{rounded:,.{max(0, 2 - power)}f}"
    return shown.replace("-", "−")


def cell(value: str | float) -> str:
    """Write a table's cell: text as it is, numbers by ``number``."""
    return value if isinstance(value, str) else number(value)


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


def counted(count: int, one: str, many: str = "") -> str:
    """Write a count with its noun."""
    return f"{count} {one if count == 1 else many or one + 's'}"
