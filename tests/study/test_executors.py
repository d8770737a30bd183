import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from xhat.errors import ModelError, UsageError, XhatError
from xhat.study import executors
from xhat.study.execute import law_result
from xhat.study.executors import MAX_TRIES, Done, LocalPool, SharedExecutor, Task, Workers
from xhat.study.spec import Data, LawSpec, Member, Network, Probe, Record, Spec, TrainSpec
from xhat.study.store import Run
from xhat.study.train import train

from .users import NETWORK
from .waiting import gone, until

# Networks that end their own process, or wait until a file says go on.
HAZARDS = """
import os
import signal
import time
from pathlib import Path
from torch import nn

HERE = Path(__file__).parent


def end_process():
    os.kill(os.getpid(), signal.SIGKILL)


def wait_until(event):
    deadline = time.monotonic() + 60
    while not event() and time.monotonic() < deadline:
        time.sleep(0.01)


def count(what):
    return len(list(HERE.glob(f"{what}-*")))


def ordinary():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


class Waits(nn.Sequential):
    def forward(self, x):
        (HERE / "begun").touch()
        wait_until((HERE / "go").exists)
        return super().forward(x)


def waits(norm):
    return Waits(*ordinary())


class IsUnderWay(nn.Sequential):
    def forward(self, x):
        (HERE / f"under-way-{os.getpid()}").touch()
        wait_until((HERE / "go").exists)
        return super().forward(x)


def innocent(norm):
    return IsUnderWay(*ordinary())


def guilty(norm):
    wait_until(lambda: count("under-way") > count("death"))
    (HERE / f"death-{os.getpid()}").touch()
    end_process()


def leaves(norm):
    raise SystemExit(3)


def plain(norm):
    return ordinary()
"""

SMALL = TrainSpec(
    Network("mlp", "batch", (("depth", 2), ("width", 8))),
    Data("digits", 100, 50),
    (Member(0, 0.1), Member(1, 0.1)),
    steps=12,
    batch_size=16,
    probe=Probe((0, 5), (0.5, 2.0)),
    record=Record((0, 5), 16),
    gradients=True,
)


class Folder:
    """A folder with a user's modules, and tasks that name what is in them."""

    def __init__(self, path: Path, write: Callable[[str], str]) -> None:
        self.path = path
        self.names = {text: write(text) for text in (HAZARDS, NETWORK)}

    def spec(self, network: str, text: str = HAZARDS) -> TrainSpec:
        return TrainSpec(
            Network(f"{self.names[text]}:{network}"),
            Data("digits", 100, 50),
            (Member(0, 0.1, "own"),),
            12,
            16,
        )

    def tasks(self, *networks: str) -> list[Task]:
        return [task(self.spec(network), self.path) for network in networks]


_indices = count()


def task(spec: Spec, folder: Path | None = None) -> Task:
    return Task(next(_indices), spec, folder)


@pytest.fixture
def folder(tmp_path, write_module) -> Folder:
    return Folder(tmp_path, write_module)


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    """Two workers for all tests that leave them alive: to start one takes seconds."""
    made = LocalPool(2)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def mortal() -> Iterator[LocalPool]:
    """One worker for tests that kill it."""
    made = LocalPool(1)
    yield made
    made.stop()


def do(workers: Workers, tasks: list[Task], on_progress=lambda shares: None) -> list[Done]:
    """Return how the tasks ended, in their order."""
    for each in tasks:
        workers.submit(each)
    return sorted(workers.results(on_progress), key=lambda done: done.task.index)


def assert_as_in_this_process(done: Done) -> None:
    assert done.error is None
    _, expected = train(done.task.spec, folder=done.task.folder)
    assert done.arrays is not None
    assert done.arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert done.arrays[name].tobytes() == array.tobytes(), name


def test_workers_give_the_bits_of_this_process_and_tell_how_far_they_are(pool, folder):
    tasks = [task(SMALL), task(folder.spec("make_model", NETWORK), folder.path), task(LawSpec("lipschitz"))]
    seen: list[dict[int, float]] = []
    ours, users, law_run = do(pool, tasks, lambda shares: seen.append(dict(shares)))
    assert_as_in_this_process(ours)
    assert_as_in_this_process(users)
    law = law_result(Run("key", law_run.record, law_run.arrays))
    assert (law.id, law.passed) == ("lipschitz", True)
    np.testing.assert_array_equal(law_run.arrays["errors"], [check.error for check in law.checks])
    assert all(0.0 <= share <= 1.0 for shares in seen for share in shares.values())
    assert set().union(*seen) == {each.index for each in tasks}


def test_progress_inside_a_run_is_told(pool, folder):
    seen: list[float] = []

    def on_progress(shares: dict[int, float]) -> None:
        seen.extend(shares.values())
        if seen[-1] > 0:  # it waits in its first step: begun, and nothing done
            (folder.path / "go").touch()

    (done,) = do(pool, folder.tasks("waits"), on_progress)
    assert done.error is None
    assert any(0 < share < 0.01 for share in seen)


def test_tasks_may_be_handed_in_while_results_come(pool, folder):
    first, second = folder.tasks("plain", "plain")
    pool.submit(first)
    seen = []
    for done in pool.results(lambda shares: None):
        seen.append(done.task)
        if done.task is first:
            pool.submit(second)
    assert seen == [first, second]


def test_a_tasks_own_error_comes_back_and_the_others_finish(pool, folder):
    unfit = replace(folder.spec("plain"), data=Data("fashion-mnist", 100, 50))
    missing, leaves, unfits, plain = do(
        pool, [*folder.tasks("missing", "leaves"), task(unfit, folder.path), *folder.tasks("plain")]
    )
    assert isinstance(missing.error, UsageError)
    assert isinstance(leaves.error, SystemExit)
    assert isinstance(unfits.error, ModelError)
    assert "(16, 1, 28, 28)" in str(unfits.error)
    assert_as_in_this_process(plain)


def test_a_stopped_pool_leaves_no_process(pool, folder):
    for each in folder.tasks("waits", "waits"):
        pool.submit(each)
    until((folder.path / "begun").exists)
    workers = list(pool._processes)
    assert len(workers) == 2
    pool.stop()
    assert gone(workers)
    assert list(pool.results(lambda shares: None)) == []


# --- workers that die


def test_a_worker_killed_in_the_middle_of_a_run_costs_no_run(mortal, folder, caplog):
    tasks, killed = folder.tasks("waits", "plain"), []

    def kill_one(shares: dict[int, float]) -> None:
        if not killed and (folder.path / "begun").exists():
            (pid,) = mortal._pool._processes
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)
            (folder.path / "go").touch()

    done = do(mortal, tasks, kill_one)
    assert gone(killed)
    assert [each.task for each in done] == tasks
    for each in done:
        assert_as_in_this_process(each)
    assert "a worker process died; 2 runs are given out again" in caplog.text


def test_a_worker_that_dies_between_two_tasks_is_replaced(mortal, folder):
    first, second = folder.tasks("plain", "plain")
    mortal._deaths = MAX_TRIES - 1  # as after earlier deaths: a task that gets done makes them forgotten
    mortal.submit(first)
    seen = []
    for done in mortal.results(lambda shares: None):
        seen.append(done)
        if done.task is first:
            (pid,) = mortal._pool._processes
            os.kill(pid, signal.SIGKILL)
            until(lambda: mortal._pool._broken)  # so that handing in a task finds the pool broken
            mortal.submit(second)
    assert [done.task for done in seen] == [first, second]
    assert [done.error for done in seen] == [None, None]


def test_a_run_that_always_kills_its_worker_fails_and_its_neighbours_do_not(folder):
    workers = LocalPool(2)
    guilty, *others = folder.tasks("guilty", "innocent", "plain")
    for each in (guilty, *others):
        workers.submit(each)
    ended: dict[int, Done] = {}
    for done in workers.results(lambda shares: None):
        ended[done.task.index] = done
        if done.task is guilty:
            (folder.path / "go").touch()  # until then the innocent one is under way
    workers.stop()
    assert len(list(folder.path.glob("death-*"))) == MAX_TRIES
    error = ended.pop(guilty.index).error
    assert isinstance(error, RuntimeError)
    assert str(error) == f"its worker process died {MAX_TRIES} times"
    assert sorted(ended) == [each.index for each in others]
    for done in ended.values():
        assert_as_in_this_process(done)


def test_workers_that_cannot_start_end_in_an_error_not_in_a_loop(monkeypatch, folder):
    # As in a script that lacks the guard: every worker dies before it begins. Here for want of arguments.
    monkeypatch.setattr(executors, "_begin", os.getpid)
    workers = LocalPool(1)
    with pytest.raises(XhatError, match=r"die before they begin a run.*__name__ == '__main__'"):
        do(workers, folder.tasks("plain"))
    workers.stop()


SCRIPT = """
from pathlib import Path
from xhat.study.executors import LocalPool, Task
from xhat.study.spec import Data, Member, Network, TrainSpec

if __name__ == "__main__":
    pool = LocalPool(1)
    pool.submit(Task(0, {spec!r}, Path({folder!r})))
    print(*pool._processes, flush=True)
    print(len(list(pool.results(lambda shares: None))))
"""


def test_workers_do_not_outlive_a_killed_parent(folder):
    script = folder.path / "script.py"
    script.write_text(SCRIPT.format(spec=folder.spec("waits"), folder=str(folder.path)))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        until((folder.path / "begun").exists)
        parent.kill()
    assert len(workers) == 1
    assert gone(workers)


# --- executors of others


def test_another_executor_of_processes_gives_the_same_bits():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        (done,) = do(SharedExecutor(executor), [task(SMALL)])
    assert_as_in_this_process(done)


def test_threads_give_the_same_bits_though_generators_are_shared():
    noisy = replace(SMALL, network=SMALL.network.with_norm("batch+noise"))
    with ThreadPoolExecutor(3) as executor:
        done = do(SharedExecutor(executor), [task(replace(noisy, steps=40 + n)) for n in range(6)])
    assert len(done) == 6
    for each in done:
        assert_as_in_this_process(each)


def test_an_executor_that_was_shut_down_gives_errors(folder):
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    (done,) = do(SharedExecutor(executor), folder.tasks("plain"))
    assert "cannot schedule new futures after shutdown" in str(done.error)


class Cancels(Executor):
    def submit(self, *args, **kwargs):
        future = Future()
        future.cancel()
        future.set_running_or_notify_cancel()
        return future


def test_an_executor_that_cancels_gives_errors(folder):
    (done,) = do(SharedExecutor(Cancels()), folder.tasks("plain"))
    assert isinstance(done.error, CancelledError)


def test_a_shared_executor_is_not_stopped_but_waiting_tasks_are_taken_back(folder):
    with ThreadPoolExecutor(1) as executor:
        shared = SharedExecutor(executor)
        for each in folder.tasks("waits", "plain"):
            shared.submit(each)
        until((folder.path / "begun").exists)
        begun, waiting = shared._futures
        shared.stop()
        (folder.path / "go").touch()
        assert begun.result()
        assert waiting.cancelled()
        assert executor.submit(int).result() == 0
