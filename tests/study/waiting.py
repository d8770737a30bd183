"""Waiting for events of other processes: polled, with a generous deadline."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

DEADLINE = 120.0


def until(event: Callable[[], object], what: str = "the event") -> None:
    """Return once ``event()`` is true."""
    end = time.monotonic() + DEADLINE
    while not event():
        assert time.monotonic() < end, f"{what} did not happen in {DEADLINE:g} s"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: Iterable[int]) -> bool:
    """Wait until none of the processes is left."""
    until(lambda: not any(map(alive, pids)), "the end of all processes")
    return True


def of_group(group: int) -> list[int]:
    """Return the processes of a process group that run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found
