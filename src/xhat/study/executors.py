"""Local worker processes behind ``concurrent.futures``: one task a process, a dead worker is replaced."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any, Protocol

from xhat.memory import reuse_memory
from xhat.study.execute import execute
from xhat.study.spec import Spec
from xhat.study.store import Arrays

logger = logging.getLogger(__name__)

# A worker may be killed for want of memory once; twice on the same run is the run's fault.
MAX_TRIES = 2
_SLOTS = 65_536

Progress = Callable[[dict[int, float]], None]

_progress: Any = None


@dataclass(frozen=True)
class Task:
    """One run to do: its place in the list of all, and where a user's modules are looked for."""

    index: int
    spec: Spec
    folder: Path | None


@dataclass(frozen=True)
class Done:
    """How a task ended: with record and arrays, or with the error."""

    task: Task
    record: dict[str, Any] | None = None
    arrays: Arrays | None = None
    error: BaseException | None = None


class Workers(Protocol):
    """Where runs are done: hand in tasks, iterate results; tasks may be handed in while iterating."""

    workers: int
    window: int  # tasks to hand in at a time, so that urgent ones need not queue behind all others

    def submit(self, task: Task) -> None:
        """Hand in a task."""
        ...

    def results(self, on_progress: Progress) -> Iterator[Done]:
        """Yield results as they come, until nothing handed in is left."""
        ...

    def stop(self) -> None:
        """End what is ours to end; what was being done is lost, what is in the store is not."""
        ...


class LocalPool:
    """As many worker processes as asked for, up to 65,536 tasks.

    A worker that dies takes the whole pool with it (a limit of ``concurrent.futures``): the pool is made
    anew and unfinished tasks are given out again, each at most twice.

    Args:
        workers: Processes; by default one a core.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or len(os.sched_getaffinity(0))
        self.window = self.workers + 1
        self._context = multiprocessing.get_context("spawn")
        # Shared memory without a lock: a worker killed while it reports leaves nothing locked behind.
        self._progress: Any = self._context.RawArray("d", _SLOTS)
        self._pool: ProcessPoolExecutor | None = None
        self._futures: dict[Future[Any], Task] = {}
        self._tries: dict[int, int] = {}

    def submit(self, task: Task) -> None:
        """Hand in a task."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.workers, mp_context=self._context, initializer=_begin, initargs=(self._progress,)
            )
        self._progress[task.index] = 0.0
        self._futures[self._pool.submit(_work, task, shared=True)] = task

    def results(self, on_progress: Progress) -> Iterator[Done]:
        """Yield results as they come, until nothing handed in is left.

        Args:
            on_progress: Gets the share done of each task under way by its index, twice a second.
        """
        while self._futures:
            finished, _ = wait(self._futures, timeout=0.5, return_when=FIRST_COMPLETED)
            on_progress({t.index: float(self._progress[t.index]) for t in self._futures.values()})
            done = [_done(self._futures[future], future) for future in finished]
            if any(isinstance(each.error, BrokenProcessPool) for each in done):
                yield from self._give_out_again()
                continue
            for future in finished:
                del self._futures[future]
            yield from sorted(done, key=lambda each: each.task.index)

    def stop(self) -> None:
        """End the workers now."""
        pool, self._pool = self._pool, None
        self._futures.clear()
        if pool is None:
            return
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)

    def _give_out_again(self) -> Iterator[Done]:
        wait(self._futures)  # all of a broken pool's futures end at once
        left = {future: task for future, task in self._futures.items() if future.exception()}
        kept = [_done(task, future) for future, task in self._futures.items() if future not in left]
        # Which task killed the worker is not told: those that had begun are the suspects.
        began = {task.index for task in left.values() if self._progress[task.index] > 0}
        self.stop()
        logger.warning("a worker process died; %d runs are given out again", len(left))
        for task in left.values():
            self._tries[task.index] = self._tries.get(task.index, 0) + (task.index in began)
            if self._tries[task.index] >= MAX_TRIES:
                kept.append(Done(task, error=RuntimeError(f"its worker process died {MAX_TRIES} times")))
            else:
                self.submit(task)
        yield from kept


class SharedExecutor:
    """Any executor of the ``concurrent.futures`` kind, Dask's among them; it is not ours to stop.

    Progress inside a run is not known here.
    """

    def __init__(self, executor: Executor, *, workers: int = 1) -> None:
        self.workers = workers
        self.window = 10_000  # how many it does at a time is not known
        self._executor = executor
        self._futures: dict[Future[Any], Task] = {}

    def submit(self, task: Task) -> None:
        """Hand in a task."""
        self._futures[self._executor.submit(_work, task)] = task

    def results(self, on_progress: Progress) -> Iterator[Done]:
        """Yield results as they come, until nothing handed in is left."""
        while self._futures:
            finished, _ = wait(self._futures, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                yield _done(self._futures.pop(future), future)

    def stop(self) -> None:
        """Take back what has not begun."""
        for future in self._futures:
            future.cancel()
        self._futures.clear()


def _done(task: Task, future: Future[Any]) -> Done:
    error = future.exception()
    if error is not None:
        return Done(task, error=error)
    record, arrays = future.result()
    return Done(task, record, arrays)


def _begin(progress: Any) -> None:
    """Set up a worker: Ctrl-C is the parent's to handle, and no worker outlives the parent."""
    global _progress
    _progress = progress
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    reuse_memory()


def _end_with(sentinel: int) -> None:
    wait_for([sentinel])
    os._exit(1)


def _work(task: Task, *, shared: bool = False) -> tuple[dict[str, Any], Arrays]:
    def tick(share: float) -> None:
        if shared:
            _progress[task.index] = max(share, 1e-6)  # above 0: the task has begun

    tick(0.0)
    return execute(task.spec, tick=tick, folder=task.folder)
