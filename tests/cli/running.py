"""Run the command in this process, in a folder that holds a user's module."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from xhat.cli import main

from ..study.users import module_writer
from .test_commands import Said


@contextmanager
def running(
    source: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    columns: int = 120,
) -> Iterator[tuple[str, Callable[..., Said]]]:
    """Write the module into the folder; yield its name, and what runs ``xhat`` with the words that it is given."""
    monkeypatch.chdir(folder)
    name = module_writer(folder, monkeypatch)(source)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("COLUMNS", str(columns))
    before = signal.getsignal(signal.SIGTERM)

    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["xhat", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        return Said(int(left.value.code or 0), said.out, said.err)

    try:
        yield name, run
    finally:
        signal.signal(signal.SIGTERM, before)
