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


def recalibrated(arm: Tuned) -> npt.NDArray[np.float64]:
    """Return test accuracy in per cent with running statistics estimated anew, one a seed.

    A run that was given up has none: its last accuracy stands.
    """
    found = [
        outcome.measured("recalibrated", "accuracy")[-1]
        if "recalibrated_accuracy" in outcome.run.arrays
        else outcome.test_accuracy
        for outcome in arm.outcomes
    ]
    return 100 * np.array(found)


def left_out(count: int, arm: str) -> str:
    """Say how many seeds are left out because the arm does not train; "" for none."""
    if not count:
        return ""
    return say("{count} seeds left out, where {arm} does not train", count=count, arm=NAMES[arm])


def on_rates(arms: Mapping[str, Tuned], names: Mapping[str, str] = NAMES) -> str:
    """Say where the choice of the arms' rates may have hurt one of them; "" where it cannot be seen to."""
    return listed(filter(None, (at_edge(arms, names), not_at_rate(arms, names))), "; ")


def at_edge(arms: Mapping[str, Tuned], names: Mapping[str, str] = NAMES) -> str:
    """Say which arms have their best rate at an end of the grid, and whether they train; "" if none has."""
    ends = [arm for arm, found in arms.items() if found.at_edge]
    train = [names[arm] for arm in ends if trained(arms[arm]).any()]
    fail = [names[arm] for arm in ends if not trained(arms[arm]).any()]
    notes = []
    if train:
        notes.append(say("best rate at the grid's end: {arms}", arms=listed(train, ", ")))
    if fail:
        notes.append(
            say("best rate at the grid's end, and does not train there: {arms}", arms=listed(fail, ", "))
        )
    return listed(notes, "; ")


def not_at_rate(arms: Mapping[str, Tuned], names: Mapping[str, str] = NAMES) -> str:
    """Say how many of the seeds that did not choose an arm's rate do not train at it; "" for none."""
    counts = {arm: sum(not outcome.trains for outcome in found.rest) for arm, found in arms.items()}
    return listed(
        [
            say(
                "{count} of the {rest} seeds that did not choose the rate of {arm} do not train",
                count=count,
                rest=len(arms[arm].rest),
                arm=names[arm],
            )
            for arm, count in counts.items()
            if count
        ],
        "; ",
    )


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
