import errno
import json
import logging
import os
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xhat.errors import StoreError
from xhat.study import codec
from xhat.study import store as module
from xhat.study.store import FORMAT, Store

from ..report.sample import study

ARRAYS = {
    "loss": np.array([[1.0, np.nan], [np.inf, -0.0]], dtype=np.float32),
    "trains": np.array([True, False]),
    "probe_step": np.arange(3),
    "empty": np.zeros((0, 2)),
}
RECORD = {"spec": {"kind": "train", "name": "γ"}, "seconds": 1.5, "positions": [["hidden.0", "input"]]}
HOST = socket.gethostname().replace(".", "-")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "out")


def everything(folder: Path) -> dict[str, bytes | None]:
    """What lies under a folder, hidden files too."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def assert_same(run, arrays=ARRAYS) -> None:
    assert run is not None
    assert run.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert run.arrays[name].dtype == array.dtype
        assert run.arrays[name].tobytes() == array.tobytes()


def test_a_run_comes_back_bit_for_bit(store):
    store.put("abc", RECORD, ARRAYS)
    run = Store(store.folder).get("abc")
    assert_same(run)
    assert run.key == "abc"
    assert RECORD.items() <= run.record.items()
    assert run.record["format"] == FORMAT
    assert store.keys() == ["abc"]


def test_what_is_not_there_is_not_done(store):
    assert store.get("abc") is None
    assert store.keys() == []
    assert list(store.runs()) == []


def test_runs_come_sorted_and_stray_files_do_not_count(store):
    for key in ("b", "a", "c"):
        store.put(key, RECORD, ARRAYS)
    (store.folder / "runs" / "thumbs.db").write_text("")
    assert store.keys() == ["a", "b", "c"]
    assert [run.key for run in store.runs()] == ["a", "b", "c"]


# --- a run is under its key whole, or not at all


def broken_rename(self, target):
    raise OSError(errno.EIO, "Input/output error")


def half_a_write(path: Path, content: bytes) -> None:
    path.write_bytes(content[: len(content) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("fails", ["rename", "write", "second write", "sync"])
def test_a_run_that_fails_half_way_leaves_nothing(store, monkeypatch, fails, kind):
    store.put("before", RECORD, ARRAYS)
    known = everything(store.folder)
    calls = []

    def fail(*args):
        calls.append(args)
        if fails == "second write" and len(calls) == 1:
            Path(args[0]).write_bytes(args[1])
            return
        if "write" in fails:
            Path(args[0]).write_bytes(args[1][:10])
        raise kind(errno.ENOSPC, "No space left on device")

    target, name = {"rename": (Path, "rename"), "sync": (module, "_sync")}.get(fails, (module, "_write"))
    with monkeypatch.context() as patch:
        patch.setattr(target, name, fail)
        with pytest.raises(StoreError if kind is OSError else kind) as caught:
            store.put("abc", RECORD, ARRAYS)
    if kind is OSError:
        assert "No space left on device" in str(caught.value)
        assert str(store.folder) in str(caught.value)
        assert "Finished runs are safe" in str(caught.value)
    assert everything(store.folder) == known
    store.put("abc", RECORD, ARRAYS)
    assert_same(store.get("abc"))


def test_a_study_is_written_beside_and_renamed(store, monkeypatch):
    store.put_study(study())
    known = everything(store.folder)
    monkeypatch.setattr(module, "_write", half_a_write)
    with pytest.raises(StoreError, match=r"study\.json could not be written: No space"):
        store.put_study(replace(study(), preset="full"))
    assert everything(store.folder) == known
    assert repr(store.get_study()) == repr(study())


def test_the_last_study_counts(store):
    store.put_study(study())
    store.put_study(replace(study(), preset="full"))
    assert store.get_study().preset == "full"


def test_two_stores_put_the_same_run_and_the_first_stays(store):
    other = Store(store.folder)
    store.put("abc", RECORD, ARRAYS)
    known = everything(store.folder)
    other.put("abc", {**RECORD, "seconds": 9.0}, ARRAYS)
    assert everything(store.folder) == known


def test_arrays_that_would_need_pickle_are_refused(store):
    known = everything(store.folder)
    with pytest.raises(ValueError, match="Object arrays"):
        store.put("abc", RECORD, {"bad": np.array([object()])})
    assert everything(store.folder) == known


# --- damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def alter(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


DAMAGE = {
    "truncated arrays": lambda run: truncate(run / "arrays.npz"),
    "altered arrays": lambda run: flip(run / "arrays.npz"),
    "empty arrays": lambda run: (run / "arrays.npz").write_bytes(b""),
    "no arrays": lambda run: (run / "arrays.npz").unlink(),
    "a folder for arrays": lambda run: ((run / "arrays.npz").unlink(), (run / "arrays.npz").mkdir()),
    "no record": lambda run: (run / "record.json").unlink(),
    "truncated record": lambda run: truncate(run / "record.json"),
    "empty record": lambda run: (run / "record.json").write_text(""),
    "a record that is a list": lambda run: (run / "record.json").write_text("[]"),
    "a record without hashes": lambda run: (run / "record.json").write_text("{}"),
    "a record in another encoding": lambda run: (run / "record.json").write_bytes(b"\xff\xfe{}"),
    "another number in the record": lambda run: alter(run / "record.json", "1.5", "2.5"),
    "another name in the record": lambda run: alter(run / "record.json", "hidden.0", "hidden.1"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_run_is_set_aside_and_told_of(store, caplog, damage):
    store.put("good", RECORD, ARRAYS)
    store.put("abc", RECORD, ARRAYS)
    damage(store.folder / "runs" / "abc")
    with caplog.at_level(logging.WARNING):
        assert store.get("abc") is None
    (message,) = caplog.messages
    (place,) = (store.folder / "set-aside").iterdir()
    assert message.startswith("run abc")
    assert f"It was moved to {place} and will be done again." in message
    assert store.keys() == ["good"]
    assert_same(store.get("good"))
    store.put("abc", RECORD, ARRAYS)
    assert_same(store.get("abc"))


def test_twice_damaged_runs_are_both_kept_aside(store):
    for _ in range(2):
        store.put("abc", RECORD, ARRAYS)
        DAMAGE["no record"](store.folder / "runs" / "abc")
        assert list(store.runs()) == []
    assert len(list((store.folder / "set-aside").iterdir())) == 2


def test_a_damaged_run_that_another_process_has_set_aside_is_just_not_done(store, caplog, monkeypatch):
    store.put("abc", RECORD, ARRAYS)
    DAMAGE["no record"](store.folder / "runs" / "abc")
    rename = Path.rename
    other = Store(store.folder)

    def late(self, target):
        rename(self, Path(target).with_name("by the other"))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    assert other.get("abc") is None
    assert caplog.messages == []


def test_a_damaged_run_that_cannot_be_moved_is_an_error_in_words(store, monkeypatch):
    store.put("abc", RECORD, ARRAYS)
    DAMAGE["no record"](store.folder / "runs" / "abc")
    monkeypatch.setattr(Path, "rename", broken_rename)
    with pytest.raises(
        StoreError, match=r"is damaged and cannot be moved to .*set-aside: Input/output error"
    ):
        store.get("abc")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"preset":"quick"}', "\0"])
def test_a_damaged_study_is_an_error_with_its_remedy(store, text):
    (store.folder / "study.json").write_text(text)
    with pytest.raises(StoreError, match="from the finished runs, without training"):
        store.get_study()


def test_no_study_is_an_error_with_its_remedy(store):
    with pytest.raises(StoreError, match=f"run `xhat study --out {store.folder}` first"):
        store.get_study()


# --- what killed processes leave behind


def leave_half_a_run(store: Store, name: str) -> Path:
    folder = store.folder / "runs" / name
    folder.mkdir()
    (folder / "arrays.npz").write_bytes(b"PK")
    return folder


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_only_what_a_dead_process_left_is_swept(store, dead_pid):
    swept = [leave_half_a_run(store, f".abc.{HOST}.{dead_pid}.0011aabb")]
    swept += [store.folder / f".study.json.{HOST}.{dead_pid}.0011aabb"]
    swept[1].write_text("half")
    kept = [
        leave_half_a_run(store, f".abc.{HOST}.{os.getpid()}.0011aabb"),
        leave_half_a_run(store, f".abc.another-machine.{dead_pid}.0011aabb"),
        leave_half_a_run(store, "abd"),
        store.folder / f".mine.{HOST}.txt",
    ]
    kept[3].write_text("a user's file")
    again = Store(store.folder)
    assert [path.exists() for path in swept] == [False, False]
    assert [path.exists() for path in kept] == [True] * 4
    assert again.keys() == ["abd"]


def test_another_process_may_sweep_at_the_same_time(store, dead_pid, monkeypatch):
    leave_half_a_run(store, f".abc.{HOST}.{dead_pid}.0011aabb")
    left = store.folder / f".study.json.{HOST}.{dead_pid}.0011aabb"
    left.write_text("half")
    exists = Path.exists

    def gone_now(self, **options):
        left.unlink(missing_ok=True)
        return exists(self, **options)

    monkeypatch.setattr(Path, "exists", gone_now)
    Store(store.folder)


# --- folders that are no store


@pytest.mark.parametrize("with_runs", [True, False])
def test_a_newer_store_is_left_as_it_is(tmp_path, dead_pid, with_runs):
    (tmp_path / "store.json").write_text(json.dumps({"format": FORMAT + 1}))
    (tmp_path / f".study.json.{HOST}.{dead_pid}.0011aabb").write_text("half")
    if with_runs:
        (tmp_path / "runs").mkdir()
    known = everything(tmp_path)
    with pytest.raises(StoreError, match=r"newer xhat \(format 2; this one knows 1\)") as caught:
        Store(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert everything(tmp_path) == known


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"{}",
        b'{"format":"x"}',
        b'{"format":null}',
        b'{"format":0}',
        b'{"format":Infinity}',
        b"\xff",
    ],
)
def test_a_description_that_makes_no_sense(tmp_path, content):
    (tmp_path / "store.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"store\.json is not a store's description"):
        Store(tmp_path)
    assert everything(tmp_path) == {"store.json": content}


def test_a_file_in_place_of_the_folder(tmp_path):
    file = tmp_path / "out"
    file.write_text("mine")
    for folder in (file, file / "deeper"):
        with pytest.raises(StoreError, match=f"the output folder {folder} cannot be used"):
            Store(folder)
    assert file.read_text() == "mine"


def test_a_folder_that_cannot_be_written():
    with pytest.raises(StoreError, match=r"the output folder /proc/xhat cannot be used: .*Name another"):
        Store("/proc/xhat")


# --- a real disk


@pytest.fixture
def small_disk(tmp_path: Path):
    """A real file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux may mount a file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mount is not permitted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_harms_no_finished_run(small_disk):
    store = Store(small_disk / "out")
    store.put("early", RECORD, ARRAYS)
    store.put_study(study())
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(512 * 1024))
    noise = {"noise": np.random.default_rng(0).random(1 << 17)}  # incompressible: does not fit any more
    with pytest.raises(StoreError, match=r"No space left on device.*free some space") as caught:
        store.put("late", RECORD, noise)
    assert str(small_disk) in str(caught.value)
    assert not list((small_disk / "out" / "runs").glob(".*"))
    assert store.keys() == ["early"]
    assert_same(Store(small_disk / "out").get("early"))
    assert repr(store.get_study()) == repr(study())

    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while True:  # to the last page
            file.write(bytes(4096))
    with pytest.raises(StoreError, match=r"study\.json could not be written: No space left on device"):
        store.put_study(replace(study(), preset="full"))
    assert store.get_study().preset == study().preset

    ballast.unlink()
    store.put("late", RECORD, ARRAYS)
    assert_same(store.get("late"))


def test_a_disk_that_is_mounted_read_only(small_disk):
    store = Store(small_disk / "out")
    store.put("abc", RECORD, ARRAYS)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    again = Store(small_disk / "out")
    assert_same(again.get("abc"))
    with pytest.raises(StoreError, match="Read-only file system"):
        again.put("abd", RECORD, ARRAYS)
    with pytest.raises(StoreError, match="Read-only file system"):
        again.put_study(study())


def test_the_record_is_json_that_any_reader_takes(store):
    store.put("abc", {**RECORD, "lr": float("inf")}, ARRAYS)
    record = json.loads((store.folder / "runs" / "abc" / "record.json").read_text())
    assert record["lr"] == "Infinity"
    assert record["spec"]["name"] == "γ"
    assert codec.loads(codec.dumps(study()), type(study())).preset == study().preset
