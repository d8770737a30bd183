"""What all commands share: where they print, their exit codes, and the language."""

from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

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
