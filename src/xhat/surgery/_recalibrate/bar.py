"""A progress bar without words, on stderr, where that is a terminal."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bar(
    show: bool, passes: int, batches: Iterable[Any], limit: int | None
) -> Iterator[Callable[[int], None]]:
    """Yield what is called with the pass's number (from 1) after each batch."""
    if not show:
        yield lambda number: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        length = _length(batches, limit)
        task = shown.add_task(f"1/{passes}", total=length and passes * length)
        yield lambda number: shown.update(task, advance=1, description=f"{number}/{passes}")


def _length(batches: Iterable[Any], limit: int | None) -> int | None:
    try:
        length = len(batches)  # type: ignore[arg-type]
    except TypeError:  # a stream, also one inside of a DataLoader
        return None
    return length if limit is None else min(length, limit)
