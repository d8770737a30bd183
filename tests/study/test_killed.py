"""Studies that are killed or interrupted, as real processes."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from xhat.study import run
from xhat.study.store import Store

from .waiting import DEADLINE, gone, of_group, until

CLAIMS = ("larger-lr", "smoother-loss")
COMMAND = [str(Path(sys.executable).with_name("xhat")), "study", "--preset", "smoke", "--workers", "2"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def start(out: Path) -> subprocess.Popen:
    """Start a study in a process group of its own."""
    command = [*COMMAND, "--claims", ",".join(CLAIMS), "--out", str(out)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=out, start_new_session=True
    )


def finished(out: Path) -> dict[str, tuple[int, int]]:
    """Return the finished runs, with what changes if one is written again."""
    folders = [path for path in (out / "runs").glob("*") if not path.name.startswith(".")]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folders}


def until_some_are_finished(study: subprocess.Popen, out: Path) -> None:
    until(lambda: len(finished(out)) >= 3 or study.poll() is not None, "three finished runs")
    assert study.poll() is None, study.communicate()[0]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same study in this process, from beginning to end."""
    out = tmp_path_factory.mktemp("unbroken")
    with ThreadPoolExecutor(1) as executor:
        run("smoke", claims=CLAIMS, out=out, executor=executor)
    return out


def assert_as_unbroken(out: Path, unbroken: Path) -> None:
    store, expected = Store(out), Store(unbroken)
    assert store.keys() == expected.keys()
    for ours, theirs in zip(store.runs(), expected.runs(), strict=True):
        assert ours.record["spec"] == theirs.record["spec"]
        assert ours.arrays.keys() == theirs.arrays.keys()
        for name, array in theirs.arrays.items():
            assert ours.arrays[name].tobytes() == array.tobytes(), (ours.record["spec"], name)
    for ours, theirs in zip(store.get_study().claims, expected.get_study().claims, strict=True):
        assert repr(replace(ours, seconds=0.0)) == repr(replace(theirs, seconds=0.0))


def test_a_killed_study_goes_on_where_it_was(tmp_path, unbroken):
    study = start(tmp_path)
    until_some_are_finished(study, tmp_path)
    processes = of_group(study.pid)
    assert len(processes) >= 3  # the command and two workers
    os.killpg(study.pid, signal.SIGKILL)
    study.communicate()
    assert gone(processes)

    kept = finished(tmp_path)
    assert 3 <= len(kept) < len(finished(unbroken))
    assert sorted(run_.key for run_ in Store(tmp_path).runs()) == sorted(kept)

    study = start(tmp_path)
    said, _ = study.communicate(timeout=DEADLINE)
    assert study.returncode == 0, said
    assert gone(of_group(study.pid))
    now = finished(tmp_path)
    assert {key: now[key] for key in kept} == kept  # not done again
    assert not list((tmp_path / "runs").glob(".*"))
    assert not (tmp_path / "set-aside").exists()
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert_as_unbroken(tmp_path, unbroken)


def test_an_interrupted_study_says_how_to_go_on(tmp_path):
    study = start(tmp_path)
    until_some_are_finished(study, tmp_path)
    processes = of_group(study.pid)
    kept = finished(tmp_path)
    study.send_signal(signal.SIGINT)
    said, _ = study.communicate(timeout=DEADLINE)
    assert study.returncode == 130, said
    assert "Finished runs are kept" in said
    assert "run the same command to go on" in said
    assert "Traceback" not in said
    assert gone(processes)
    now = finished(tmp_path)
    assert {key: now[key] for key in kept} == kept
    assert len(list(Store(tmp_path).runs())) == len(now)
