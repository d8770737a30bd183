"""A study's progress: a bar a claim and one in total, with the time left."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from xhat.lang import Translate, say
from xhat.study.result import ClaimResult, LawResult


class _TimeLeft(ProgressColumn):
    """Time left by the share done: runs of a study are of very different length, rates mislead."""

    def __init__(self, translate: Translate) -> None:
        super().__init__()
        self._say = translate

    def render(self, task: Task) -> Text:
        if task.finished:
            return Text(self._say("done"), style="progress.remaining")
        share = task.completed / task.total if task.total else 0.0
        time = "-:--"
        if share >= 0.02 and task.elapsed is not None:
            left = int(task.elapsed * (1 - share) / share)
            time = f"{left // 60}:{left % 60:02d}"
        return Text(self._say(say("{time} left", time=time)), style="progress.remaining")


class StudyProgress:
    """Listens to a study and draws; without a terminal it prints a line for each claim that is done."""

    def __init__(self, console: Console, _: Translate = str) -> None:
        self._console = console
        self._say = _
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            _TimeLeft(_),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._total = self._bars.add_task(_("in total"), total=None)
        self._tasks: dict[str, TaskID] = {}
        self._costs: dict[str, float] = {}
        self._done: dict[str, float] = {}
        self._begun = time.monotonic()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def planned(self, name: str, cost: float) -> None:
        """Add a claim's bar, or make it longer."""
        self._costs[name] = cost
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=cost)
        self._bars.update(self._tasks[name], total=cost)
        self._bars.update(self._total, total=sum(self._costs.values()))

    def progressed(self, name: str, done: float) -> None:
        """Move a claim's bar and the total."""
        self._done[name] = done
        if name in self._tasks:
            self._bars.update(self._tasks[name], completed=done)
        self._bars.update(self._total, completed=sum(self._done.values()))

    def finished(self, name: str, result: ClaimResult | LawResult) -> None:
        """Fill a claim's bar."""
        if not isinstance(result, ClaimResult):
            return
        self.progressed(name, self._costs.get(name, 0.0))
        if not self._console.is_terminal:
            seconds = time.monotonic() - self._begun
            self._console.print(f"{name}: {self._say(result.verdict)} ({seconds:.0f} s)", highlight=False)
