"""Arms at their own best rates, as several claims name and list them."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from xhat.lang import listed, say
from xhat.study.claims._tuned import Tuned
from xhat.study.curves import ARM_NAMES
from xhat.study.result import Table

NAMES = {
    **ARM_NAMES,
    "l1": "L1 norm",
    "linf": "L∞ norm",
    "ghost8": "ghost batch norm of 8",
    "ghost32": "ghost batch norm of 32",
}


def trained(arm: Tuned) -> npt.NDArray[np.bool_]:
    """Return whether each seed trains."""
    return np.array([outcome.trains for outcome in arm.outcomes])


def left_out(count: int, arm: str) -> str:
    """Say how many seeds are left out because the arm does not train; "" for none."""
    if not count:
        return ""
    return say("{count} seeds left out, where {arm} does not train", count=count, arm=NAMES[arm])


def at_edge(arms: Mapping[str, Tuned], names: Mapping[str, str] = NAMES) -> str:
    """Say which arms that train have their best rate at an end of the grid; "" if none has."""
    ends = [arm for arm, found in arms.items() if found.at_edge and trained(found).any()]
    if not ends:
        return ""
    return say("best rate at the grid's end: {arms}", arms=listed([names[arm] for arm in ends], ", "))


def say_arms(arms: Sequence[str]) -> str:
    """Return the arms' names as a list in words."""
    return listed([NAMES[arm] for arm in arms], ", ")


COLUMNS = ("arm", "best rate", "seeds that train", "final training loss", "test accuracy (%), mean")


def arms_table(title: str, arms: Mapping[str, Tuned], names: Mapping[str, str] = NAMES) -> Table:
    """Return a table of each arm at its best rate."""
    return Table(title, COLUMNS, tuple(_rows(arms, names)))


def grouped_table(title: str, column: str, groups: Mapping[int, Mapping[str, Tuned]]) -> Table:
    """Return a table of each arm at its best rate, for every value of what ``column`` names."""
    rows = tuple((value, *row) for value, arms in groups.items() for row in _rows(arms, NAMES))
    return Table(title, (column, *COLUMNS), rows)


def _rows(arms: Mapping[str, Tuned], names: Mapping[str, str]) -> Iterator[tuple[str | float | int, ...]]:
    for arm, found in arms.items():
        yield (
            names[arm],
            say("{rate:g}, at the grid's end", rate=found.rate) if found.at_edge else found.rate,
            int(trained(found).sum()),
            float(np.mean([outcome.final_loss for outcome in found.outcomes])),
            float(found.accuracy.mean()),
        )
