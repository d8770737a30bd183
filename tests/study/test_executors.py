import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from xhat.errors import ModelError, XhatError
from xhat.study.execute import law_result
from xhat.study.executors import MAX_TRIES, Done, LocalPool, SharedExecutor, Task
from xhat.study.spec import Data, LawSpec, Member, Network, Probe, Record, TrainSpec
from xhat.study.store import Run
from xhat.study.train import train

from .users import DATA, NETWORK
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


def ordinary():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def always_kills(norm):
    end_process()


class KillsInTheMiddle(nn.Sequential):
    def __init__(self):
        super().__init__(*ordinary())
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        mark = HERE / "killed"
        if self.passes == 5 and not mark.exists():
            mark.touch()
            end_process()
        return super().forward(x)


def kills_once(norm):
    return KillsInTheMiddle()


class Waits(nn.Sequential):
    def forward(self, x):
        deadline = time.monotonic() + 60
        (HERE / "begun").touch()
        while not (HERE / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return super().forward(x)


def waits(norm):
    return Waits(*ordinary())


class WaitsForDeaths(nn.Sequential):
    '''Is under way while its neighbour dies again and again.'''

    def forward(self, x):
        deadline = time.monotonic() + 60
        while len(list(HERE.glob("death-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        return super().forward(x)


def innocent(norm):
    return WaitsForDeaths(*ordinary())


def guilty(norm):
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
        self.names = {text: write(text) for text in (HAZARDS, NETWORK, DATA)}

    def spec(self, network: str, text: str = HAZARDS) -> TrainSpec:
        return TrainSpec(
            Network(f"{self.names[text]}:{network}"),
            Data("digits", 100, 50),
            (Member(0, 0.1, "own"),),
            12,
            16,
        )

    def tasks(self, *networks: str) -> list[Task]:
        return [Task(index, self.spec(network), self.path) for index, network in enumerate(networks)]


@pytest.fixture
def folder(tmp_path, write_module) -> Folder:
    return Folder(tmp_path, write_module)


def do(
    workers: LocalPool | SharedExecutor, tasks: list[Task], on_progress=lambda shares: None
) -> dict[int, Done]:
    for task in tasks:
        workers.submit(task)
    try:
        return {done.task.index: done for done in workers.results(on_progress)}
    finally:
        workers.stop()


def assert_as_in_this_process(done: Done) -> None:
    assert done.error is None
    _, expected = train(done.task.spec, folder=done.task.folder)
    assert done.arrays is not None
    assert done.arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert done.arrays[name].tobytes() == array.tobytes(), name


def test_workers_give_the_bits_of_this_process_and_tell_how_far_they_are(folder):
    specs = [SMALL, folder.spec("make_model", NETWORK), LawSpec("lipschitz")]
    seen: list[dict[int, float]] = []
    done = do(LocalPool(2), [Task(n, spec, folder.path) for n, spec in enumerate(specs)], seen.append)
    assert sorted(done) == [0, 1, 2]
    assert_as_in_this_process(done[0])
    assert_as_in_this_process(done[1])
    law = law_result(Run("key", done[2].record, done[2].arrays))
    assert (law.id, law.passed) == ("lipschitz", True)
    np.testing.assert_array_equal(done[2].arrays["errors"], [check.error for check in law.checks])
    assert all(0.0 <= share <= 1.0 for shares in seen for share in shares.values())
    assert set().union(*seen) == {0, 1, 2}


def test_progress_inside_a_run_is_told(folder):
    pool, seen = LocalPool(1), []

    def on_progress(shares: dict[int, float]) -> None:
        seen.append(dict(shares))
        if shares.get(0, 0.0) > 0:  # it waits in its first step: begun, and nothing done
            (folder.path / "go").touch()

    done = do(pool, folder.tasks("waits"), on_progress)
    assert done[0].error is None
    assert any(0 < shares[0] < 0.01 for shares in seen)


def test_tasks_may_be_handed_in_while_results_come(folder):
    pool = LocalPool(1)
    first, second = folder.tasks("plain", "plain")
    pool.submit(first)
    seen = []
    for done in pool.results(lambda shares: None):
        seen.append(done.task.index)
        if done.task is first:
            pool.submit(second)
    pool.stop()
    assert seen == [0, 1]


def test_a_worker_killed_from_outside_costs_no_run(folder, caplog):
    pool, killed = LocalPool(2), []

    def kill_one(shares: dict[int, float]) -> None:
        if not killed and (folder.path / "begun").exists():
            killed.append(pool._owners[0])
            os.kill(pool._owners[0], signal.SIGKILL)
            (folder.path / "go").touch()

    done = do(pool, folder.tasks("waits", "plain", "plain"), kill_one)
    assert killed
    assert gone(killed)
    assert sorted(done) == [0, 1, 2]
    for each in done.values():
        assert_as_in_this_process(each)
    assert "a worker process died" in caplog.text


def test_a_run_that_kills_its_worker_once_is_done_again(folder):
    done = do(LocalPool(1), folder.tasks("kills_once", "plain"))
    assert (folder.path / "killed").exists()
    assert_as_in_this_process(done[0])
    assert_as_in_this_process(done[1])


def test_a_run_that_always_kills_its_worker_fails_and_its_neighbours_do_not(folder):
    done = do(LocalPool(2), folder.tasks("guilty", "innocent", "plain", "plain"))
    assert len(list(folder.path.glob("death-*"))) == MAX_TRIES
    assert str(done[0].error) == f"its worker process died {MAX_TRIES} times"
    assert isinstance(done[0].error, RuntimeError)
    for index in (1, 2, 3):
        assert_as_in_this_process(done[index])


def test_a_worker_that_dies_between_two_tasks_is_replaced(folder):
    pool = LocalPool(1)
    first, second = folder.tasks("plain", "plain")
    pool.submit(first)
    seen = []
    for done in pool.results(lambda shares: None):
        seen.append(done)
        if done.task is first:
            os.kill(pool._owners[0], signal.SIGKILL)
            until(lambda: pool._pool._broken)  # so that handing in a task finds the pool broken
            pool.submit(second)
    pool.stop()
    assert [done.task.index for done in seen] == [0, 1]
    assert [done.error for done in seen] == [None, None]


@pytest.mark.parametrize(("network", "error"), [("missing", Exception), ("leaves", SystemExit)])
def test_a_tasks_own_error_comes_back_and_the_others_finish(folder, network, error):
    done = do(LocalPool(1), folder.tasks(network, "plain"))
    assert isinstance(done[0].error, error)
    assert done[1].error is None


def test_errors_that_xhat_knows_stay_what_they_are(folder):
    spec = replace(folder.spec("plain"), data=Data("digits", 100, 50, pool=2))
    (done,) = do(LocalPool(1), [Task(0, spec, folder.path)]).values()
    assert isinstance(done.error, ModelError)
    assert "(16, 1, 4, 4)" in str(done.error)


def test_a_stopped_pool_leaves_no_process(folder):
    pool = LocalPool(2)
    for task in folder.tasks("waits", "waits"):
        pool.submit(task)
    until((folder.path / "begun").exists)
    workers = list(pool._pool._processes)
    assert workers
    pool.stop()
    assert gone(workers)
    assert list(pool.results(lambda shares: None)) == []
    pool.stop()


SCRIPT = """
import sys
from pathlib import Path
from xhat.study.executors import LocalPool, Task
from xhat.study.spec import Data, LawSpec, Member, Network, TrainSpec

def main():
    pool = LocalPool({workers})
    for index, spec in enumerate([{specs}]):
        pool.submit(Task(index, spec, Path({folder!r})))
    print(*pool._pool._processes, flush=True)
    print(len(list(pool.results(lambda shares: None))))

"""


def test_workers_do_not_outlive_a_killed_parent(folder):
    specs = f"{folder.spec('waits')!r}, {folder.spec('waits')!r}"
    script = folder.path / "script.py"
    script.write_text(
        textwrap.dedent(SCRIPT.format(workers=2, specs=specs, folder=str(folder.path)))
        + "if __name__ == '__main__':\n    main()\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    until((folder.path / "begun").exists)
    parent.kill()
    parent.communicate()
    assert len(workers) == 2
    assert gone(workers)


def test_a_script_without_a_guard_is_told_so_and_ends(folder):
    script = folder.path / "script.py"
    script.write_text(
        textwrap.dedent(SCRIPT.format(workers=1, specs="LawSpec('lipschitz')", folder=".")) + "main()\n"
    )
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert f"{XhatError.__name__}: worker processes die before they begin a run" in ended.stderr
    assert "__name__ == '__main__'" in ended.stderr


# --- executors of others


def test_another_executor_of_processes_gives_the_same_bits(folder):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        done = do(SharedExecutor(executor), [Task(0, SMALL, None), *folder.tasks("plain")[:0]])
    assert_as_in_this_process(done[0])


def test_threads_give_the_same_bits_though_generators_are_shared(folder):
    noisy = replace(SMALL, network=SMALL.network.with_norm("batch+noise"))
    tasks = [Task(index, replace(noisy, steps=40 + index), None) for index in range(6)]
    with ThreadPoolExecutor(3) as executor:
        done = do(SharedExecutor(executor), tasks)
    assert len(done) == 6
    for each in done.values():
        assert_as_in_this_process(each)


def test_an_executor_that_breaks_or_cancels_gives_errors_not_silence(folder):
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    (done,) = do(SharedExecutor(executor), folder.tasks("plain")).values()
    assert "cannot schedule new futures after shutdown" in str(done.error)

    class Cancels(ThreadPoolExecutor):
        def submit(self, *args):
            future = Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future

    (done,) = do(SharedExecutor(Cancels(1)), folder.tasks("plain")).values()
    assert "cancelled" in str(done.error)


def test_a_shared_executor_is_not_stopped_but_waiting_tasks_are_taken_back(folder):
    with ThreadPoolExecutor(1) as executor:
        shared = SharedExecutor(executor)
        for task in folder.tasks("waits", "plain"):
            shared.submit(task)
        until((folder.path / "begun").exists)
        futures = list(shared._futures)
        shared.stop()
        (folder.path / "go").touch()
        assert futures[0].result()
        assert futures[1].cancelled()
        assert executor.submit(int).result() == 0
