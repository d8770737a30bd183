"""What all commands share: where they print, their exit codes, and the language."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from xhat.errors import UsageError

console = Console()
errors = Console(stderr=True)

OK, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


class Language(StrEnum):
    """The languages of pages and of what is printed."""

    en = "en"
    zh = "zh"


Lang = Annotated[
    Language,
    typer.Option("--lang", envvar="XHAT_LANG", help="Language of what is printed: English or Chinese."),
]


def check_file(path: Path, option: str) -> None:
    """Refuse a file that cannot be written, before any work.

    Raises:
        UsageError: it is a folder, or lies in one that does not exist.
    """
    if path.is_dir() or not path.name:
        raise UsageError(f"{option} is {path}, a folder: name the file in it")
    if not path.parent.is_dir():
        raise UsageError(
            f"{option} is {path}, but there is no folder {path.parent}: make it, or mend the name"
        )
