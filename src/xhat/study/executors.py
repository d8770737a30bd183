"""Local worker processes behind ``concurrent.futures``: one task a process, a dead worker is replaced."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from xhat.errors import XhatError
from xhat.memory import reuse_memory
from xhat.study.environment import cores
from xhat.study.execute import execute
from xhat.study.spec import Spec
from xhat.study.store import Arrays

logger = logging.getLogger(__name__)

# A worker may be killed for want of memory once; twice on the same run is the run's fault.
MAX_TRIES = 2
_SLOTS = 65_536

Progress = Callable[[dict[int, float]], None]

_progress: Any = None
_owners: Any = None


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
    anew and unfinished tasks are given out again; one whose worker died twice has failed.

    Args:
        workers: Processes; by default one a core.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or cores()
        self.window = self.workers + 1
        self._context = multiprocessing.get_context("spawn")
        # Shared memory without a lock: a worker killed while it reports leaves nothing locked behind.
        self._progress: Any = self._context.RawArray("d", _SLOTS)
        self._owners: Any = self._context.RawArray("l", _SLOTS)  # the process that began each task
        self._pool: ProcessPoolExecutor | None = None
        self._processes: dict[int, BaseProcess] = {}
        self._futures: dict[Future[Any], Task] = {}
        self._held: list[Task] = []  # handed in to a pool that had broken
        self._tries: dict[int, int] = {}
        self._deaths = 0  # of workers without a task, since a task was last done

    def submit(self, task: Task) -> None:
        """Hand in a task."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.workers,
                mp_context=self._context,
                initializer=_begin,
                initargs=(self._progress, self._owners),
            )
            self._processes = self._pool._processes  # type: ignore[assignment]
        self._progress[task.index] = 0.0
        try:
            self._futures[self._pool.submit(_work, task, shared=True)] = task
        except BrokenProcessPool:
            self._held.append(task)

    def results(self, on_progress: Progress) -> Iterator[Done]:
        """Yield results as they come, until nothing handed in is left.

        Args:
            on_progress: Gets the share done of each task under way by its index, twice a second.

        Raises:
            XhatError: worker processes cannot be started.
        """
        while self._futures or self._held:
            finished, _ = wait(self._futures, timeout=0.5, return_when=FIRST_COMPLETED)
            on_progress({t.index: float(self._progress[t.index]) for t in self._futures.values()})
            done = [_done(self._futures[future], future) for future in finished]
            if self._held or any(isinstance(each.error, BrokenProcessPool) for each in done):
                yield from self._give_out_again()
                continue
            for future in finished:
                del self._futures[future]
                self._deaths = 0
            yield from sorted(done, key=lambda each: each.task.index)

    def stop(self) -> None:
        """End the workers now."""
        pool, self._pool = self._pool, None
        self._futures.clear()
        self._held.clear()
        if pool is None:
            return
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)

    def _give_out_again(self) -> Iterator[Done]:
        wait(self._futures)  # all of a broken pool's futures end at once
        ended = [_done(task, future) for future, task in self._futures.items()]
        kept = [done for done in ended if not isinstance(done.error, BrokenProcessPool)]
        left = [done.task for done in ended if isinstance(done.error, BrokenProcessPool)] + self._held
        self.stop()
        suspects = self._suspects(left)
        self._deaths = 0 if suspects or kept else self._deaths + 1
        if self._deaths >= MAX_TRIES:
            raise XhatError(
                "worker processes die before they begin a run. In a script, call xhat.study.run under "
                "`if __name__ == '__main__':`, since every worker imports the script; if memory is short, "
                "ask for fewer workers."
            )
        logger.warning("a worker process died; %d runs are given out again", len(left))
        for task in left:
            self._tries[task.index] = self._tries.get(task.index, 0) + (task.index in suspects)
            if self._tries[task.index] >= MAX_TRIES:
                kept.append(Done(task, error=RuntimeError(f"its worker process died {MAX_TRIES} times")))
            else:
                self.submit(task)
        yield from kept

    def _suspects(self, left: list[Task]) -> set[int]:
        """Return the tasks that may have killed a worker: what the dead one was at, else all that began."""
        began = {task.index for task in left if self._progress[task.index] > 0}
        # The pool ends the others by SIGTERM itself.
        dead = {p.pid for p in self._processes.values() if p.exitcode not in (None, 0, -signal.SIGTERM)}
        return {index for index in began if self._owners[index] in dead} if dead else began


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
        try:
            future = self._executor.submit(_work, task)
        except RuntimeError as error:  # the executor is broken, or was shut down
            future = Future()
            future.set_exception(error)
        self._futures[future] = task

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
    error = CancelledError("the executor cancelled it") if future.cancelled() else future.exception()
    if error is not None:
        return Done(task, error=error)
    record, arrays = future.result()
    return Done(task, record, arrays)


def _begin(progress: Any, owners: Any) -> None:
    """Set up a worker: Ctrl-C is the parent's to handle, and no worker outlives the parent."""
    global _progress, _owners
    _progress, _owners = progress, owners
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

    if shared:
        _owners[task.index] = os.getpid()
    tick(0.0)
    return execute(task.spec, tick=tick, folder=task.folder)
