"""The commands and their options; errors become one message and an exit code."""

import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

import xhat
from xhat.errors import UsageError, XhatError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Does batch norm help my network, why, and is it set up right?",
)
console = Console()
errors = Console(stderr=True)

OK, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130

Out = Annotated[Path, typer.Option(help="Folder of runs and report.", show_default=True)]


class Format(StrEnum):
    """What ``xhat report`` writes."""

    html = "html"
    csv = "csv"
    parquet = "parquet"


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
) -> None:
    if version:
        console.print(f"xhat {xhat.__version__}")
        raise typer.Exit


@app.command()
def study(
    preset: Annotated[
        str, typer.Option(help="smoke (under a minute, no verdicts), quick (minutes), full (hours), paper.")
    ] = "quick",
    claims: Annotated[
        str | None,
        typer.Option(help="Names or patterns of claims and laws, with commas between. Default: all."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Your network as module:callable; called with 'batch' and with 'none'. Needs --data."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="fashion-mnist, digits, cifar10:FOLDER, or yours as module:callable.")
    ] = None,
    out: Out = Path("xhat-runs"),
    seeds: Annotated[
        int | None, typer.Option(help="Seeds of every network, in place of the preset's.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Training steps of your network, in place of the preset's.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes. Default: one a core.")] = None,
) -> None:
    """Measure the laws and claims of batch norm, and write a page.

    Finished runs are kept: the same command goes on where the last one stopped, and costs nothing when all
    is done.
    """
    from xhat.cli.progress import StudyProgress
    from xhat.cli.tables import print_study
    from xhat.report import write_page
    from xhat.study import run

    try:
        with StudyProgress(console) as progress:
            result = run(
                preset,
                claims=claims.split(",") if claims else None,
                model=model,
                data=data,
                out=out,
                seeds=seeds,
                steps=steps,
                workers=workers,
                listener=progress,
            )
    except KeyboardInterrupt:
        errors.print(
            "\nStopped. Finished runs are kept: run the same command to go on, or "
            f"`xhat report --out {escape(str(out))}` for a page of the claims measured so far.",
            soft_wrap=True,
            highlight=False,
        )
        raise typer.Exit(INTERRUPTED) from None
    page = write_page(result, out / "report.html")
    print_study(console, result)
    console.print(f"\nThe page: {page.resolve()}", soft_wrap=True, highlight=False)
    if result.problems or not all(law.passed for law in result.laws):
        raise typer.Exit(FAILED)


@app.command()
def report(
    out: Out = Path("xhat-runs"),
    format: Annotated[Format, typer.Option(help="A page, or every number as tables.")] = Format.html,
) -> None:
    """Write the last study's page again, or its numbers as tables, without training."""
    from xhat.report import run_tables, study_tables, write_page, write_tables
    from xhat.study.store import Store

    if not out.is_dir():
        raise UsageError(f"there is no folder {out}; name the one that `xhat study` wrote with --out")
    store = Store(out)
    result = store.get_study()
    if format is Format.html:
        written = [write_page(result, out / "report.html")]
    else:
        keys = {key for claim in result.claims for key in claim.runs}
        tables = {**study_tables(result), **run_tables(run for run in store.runs() if run.key in keys)}
        as_: Literal["csv", "parquet"] = "csv" if format is Format.csv else "parquet"
        written = write_tables(tables, out / "tables", as_)
    for path in written:
        console.print(str(path.resolve()), soft_wrap=True, highlight=False)


@app.command()
def explain(
    name: Annotated[
        str | None, typer.Argument(help="A claim or a law. Without one: the list of all.")
    ] = None,
) -> None:
    """Say what a claim or a law is, how it is measured, and where it comes from."""
    from xhat.cli.tables import print_catalogue, print_explanation

    if name is None:
        print_catalogue(console)
    else:
        print_explanation(console, name)


def main() -> NoReturn:
    """Run the command; errors that xhat knows become one message and an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.path.insert(0, str(Path.cwd()))
    try:
        code = app(standalone_mode=False)
    except typer.Exit as leave:
        code = leave.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except XhatError as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        code = WRONG_USAGE if isinstance(error, UsageError) else FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        errors.print(f"[bold red]error:[/] {escape(where + str(error.strerror or error))}", soft_wrap=True)
        code = FAILED
    except typer._click.ClickException as error:
        error.show()
        code = WRONG_USAGE
    sys.exit(code or OK)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
