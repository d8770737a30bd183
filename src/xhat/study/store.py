"""The store: a folder that holds one folder a run, each written beside and renamed into place.

xhat-runs/
├── store.json                  the format's number
├── study.json                  what the last study found; the report is built from it
├── runs/<key>/record.json      spec, scalars, environment, the arrays' hash
├── runs/<key>/arrays.npz       the numbers, by name
└── set-aside/                  runs found damaged, kept for a look

A reader never meets half a run: a folder appears under its key only once it is whole and on the disk.
"""

import hashlib
import io
import json
import logging
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xhat.errors import CorruptRun, StoreError
from xhat.study import codec
from xhat.study.result import Study

FORMAT = 1
_HOST = socket.gethostname().replace(".", "-")
Arrays = dict[str, npt.NDArray[Any]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One finished run."""

    key: str
    record: dict[str, Any]  # "spec", "seconds", "environment", and what else the run says of itself
    arrays: Arrays


class Store:
    """A folder of finished runs; several processes may share it.

    Args:
        folder: Made if it does not exist.

    Raises:
        StoreError: the folder cannot be written, or was made by a newer xhat.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._runs = self.folder / "runs"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_format()  # first: nothing is changed in a store that is not ours to change
            self._runs.mkdir(exist_ok=True)
            self._sweep()
        except OSError as error:
            raise StoreError(
                f"the output folder {self.folder} cannot be used: {error.strerror or error}. "
                "Name another with --out."
            ) from error

    def get(self, key: str) -> Run | None:
        """Return the finished run, or None; a damaged one is set aside and counts as not done.

        Raises:
            StoreError: a damaged run cannot be set aside, since the folder cannot be written.
        """
        folder = self._runs / key
        if not folder.is_dir():
            return None
        try:
            return _read(key, folder)
        except CorruptRun as error:
            place = self._set_aside(folder)
            if place is not None:
                logger.warning("%s It was moved to %s and will be done again.", error, place)
            return None

    def put(self, key: str, record: Mapping[str, Any], arrays: Arrays) -> None:
        """Keep a finished run; if another process kept the same one first, theirs stays.

        Raises:
            StoreError: the disk is full or the folder cannot be written; finished runs are not harmed.
        """
        beside = self._runs / _beside(key)
        try:
            beside.mkdir()
            packed = io.BytesIO()
            np.savez_compressed(packed, allow_pickle=False, **arrays)
            whole = {**record, "format": FORMAT, "arrays_sha256": _sha256(packed.getvalue())}
            _write(beside / "arrays.npz", packed.getvalue())
            _write(beside / "record.json", _sealed(codec.dumps(whole)))
            _sync(beside)
            try:
                beside.rename(self._runs / key)
            except OSError:
                if not (self._runs / key).is_dir():
                    raise
            _sync(self._runs)
        except OSError as error:
            raise StoreError(
                f"a run could not be written to {self._runs}: {error.strerror or error}. "
                "Finished runs are safe; free some space and run the same command to go on."
            ) from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def keys(self) -> list[str]:
        """Return the keys of all finished runs, sorted."""
        return sorted(
            path.name for path in self._runs.iterdir() if path.is_dir() and not path.name.startswith(".")
        )

    def runs(self) -> Iterator[Run]:
        """Yield every undamaged run."""
        for key in self.keys():
            run = self.get(key)
            if run is not None:
                yield run

    def put_study(self, study: Study) -> None:
        """Keep what a study found, in place of what the last one found."""
        self.write("study.json", codec.dumps(study).encode())

    def get_study(self) -> Study:
        """Return what the last study found.

        Raises:
            StoreError: there is none, or it cannot be read.
        """
        path = self.folder / "study.json"
        try:
            return codec.loads(path.read_text(encoding="utf-8"), Study)
        except FileNotFoundError as error:
            raise StoreError(
                f"no study in {self.folder}: run `xhat study --out {self.folder}` first"
            ) from error
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path} cannot be read ({error}); `xhat study --out {self.folder}` makes it anew from the "
                "finished runs, without training"
            ) from error

    def write(self, name: str, content: bytes) -> Path:
        """Write a file of the store beside and rename it into place; return where it is."""
        path = self.folder / name
        beside = path.with_name(_beside(name))
        try:
            _write(beside, content)
            beside.replace(path)
            _sync(self.folder)
        except OSError as error:
            raise StoreError(
                f"{path} could not be written: {error.strerror or error}. Finished runs are safe; free some "
                "space and run the same command to go on."
            ) from error
        finally:
            with suppress(OSError):
                beside.unlink()
        return path

    def _check_format(self) -> None:
        path = self.folder / "store.json"
        if not path.exists():
            self.write("store.json", json.dumps({"format": FORMAT}).encode())
            return
        try:
            found = int(json.loads(path.read_text(encoding="utf-8"))["format"])
            if found < 1:
                raise ValueError(f"format {found}")
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise StoreError(
                f"{path} is not a store's description; name another folder with --out"
            ) from error
        if found > FORMAT:
            raise StoreError(
                f"{self.folder} was written by a newer xhat (format {found}; this one knows {FORMAT}). "
                "Nothing was changed. Update xhat, or name another folder with --out."
            )

    def _sweep(self) -> None:
        """Remove what killed processes of this machine left half-written; leave what a living one writes."""
        if not Path("/proc/self").exists():
            return
        for path in (*self._runs.glob(f".*.{_HOST}.*"), *self.folder.glob(f".*.{_HOST}.*")):
            pid = path.name.split(".")[-2]
            if not pid.isdecimal() or Path(f"/proc/{pid}").exists():
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)  # another process may sweep at the same time
            else:
                path.unlink(missing_ok=True)

    def _set_aside(self, folder: Path) -> Path | None:
        """Move a damaged run away and return where to, or None if another process did it first."""
        place = self.folder / "set-aside" / f"{folder.name}-{secrets.token_hex(3)}"
        try:
            place.parent.mkdir(exist_ok=True)
            folder.rename(place)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(
                f"the run {folder} is damaged and cannot be moved to {place.parent}: "
                f"{error.strerror or error}. Make the folder writable, or remove the run."
            ) from error
        return place


def _read(key: str, folder: Path) -> Run:
    try:
        record = _unsealed(key, (folder / "record.json").read_bytes())
        packed = (folder / "arrays.npz").read_bytes()
        if record["arrays_sha256"] != _sha256(packed):
            raise CorruptRun(f"run {key}: arrays.npz is truncated or altered.")
        with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
            return Run(key, record, dict(arrays))
    except (PermissionError, InterruptedError) as error:
        raise StoreError(f"run {key} in {folder} cannot be read: {error.strerror}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptRun(f"run {key} is damaged ({type(error).__name__}: {error}).") from error


def _sealed(text: str) -> bytes:
    """Return a record's JSON text with its own hash as the last field."""
    return f'{text[:-1]},"record_sha256":"{_sha256(text.encode())}"}}'.encode()


def _unsealed(key: str, content: bytes) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(content)
    seal = record.pop("record_sha256")
    text = json.dumps(record, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    if seal != _sha256(text.encode()):
        raise CorruptRun(f"run {key}: record.json is altered.")
    return record


def _beside(name: str) -> str:
    """Return a hidden name of this process, in which a file or folder is written before it is renamed."""
    return f".{name}.{_HOST}.{os.getpid()}.{secrets.token_hex(4)}"


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
