"""The commands and their options; errors become one message and an exit code."""

import signal
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.markup import escape

import xhat
from xhat.cli._shared import FAILED, INTERRUPTED, OK, WRONG_USAGE, Lang, Language, console, errors
from xhat.cli.doctor import doctor
from xhat.cli.fold import fold
from xhat.cli.recalibrate import recalibrate
from xhat.errors import ModelError, UsageError, XhatError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Does batch norm help my network, why, and is it set up right?",
)
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
        str,
        typer.Option(
            help="smoke (a minute, no verdicts), quick (minutes), full (over an hour), paper (weeks)."
        ),
    ] = "quick",
    claims: Annotated[
        str | None,
        typer.Option(
            help="Claims and laws to measure: names, or patterns such as '*-loss', with commas between. "
            "Default: all. --list shows them."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Your network as module:callable; called with 'batch' and with 'none', or, where it takes no "
            "argument, its twin with or without batch norm is made. Needs --data."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="fashion-mnist, digits, cifar10:FOLDER, or yours as module:callable.")
    ] = None,
    out: Out = Path("xhat-runs"),
    seeds: Annotated[
        int | None, typer.Option(help="Seeds of every network, 3 at least, in place of the preset's.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Training steps of every network, in place of the preset's.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where networks train: cpu or cuda.")] = "cpu",
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes. Default: one a core.")] = None,
    lang: Lang = Language.en,
    list_: Annotated[
        bool, typer.Option("--list", help="List all claims and laws, measure nothing, and leave.")
    ] = False,
) -> None:
    """Measure the laws and claims of batch norm, and write a page, in English and in Chinese.

    Finished runs are kept: the same command goes on where the last one stopped, at no cost when all is done.
    """
    from xhat.cli.expected import expected
    from xhat.cli.explain import print_catalogue
    from xhat.cli.progress import StudyProgress
    from xhat.cli.tables import print_study
    from xhat.lang import say, translator
    from xhat.report import write_pages
    from xhat.study import run

    _ = translator(lang)
    if list_:
        print_catalogue(console, _)
        return
    chosen = [name.strip() for name in claims.split(",") if name.strip()] if claims is not None else None
    if chosen == []:
        raise UsageError("--claims names nothing: write names with commas between, or leave it out for all")
    if known := expected(preset, chosen, workers, _):
        console.print(known, highlight=False)
    try:
        with StudyProgress(console, _) as progress:
            result = run(
                preset,
                claims=chosen,
                model=model,
                data=data,
                out=out,
                seeds=seeds,
                steps=steps,
                device=device,
                workers=workers,
                listener=progress,
            )
    except KeyboardInterrupt:
        words = say(
            "Stopped. Finished runs are kept: run the same command to go on, or `xhat report --out {out}` for a "
            "page of the claims measured so far.",
            out=str(out),
        )
        errors.print("\n" + escape(_(words)), soft_wrap=True, highlight=False)
        raise typer.Exit(INTERRUPTED) from None
    pages = write_pages(result, out)
    print_study(console, result, _)
    page = say("The page: {path}", path=str(pages.pop(lang).resolve()))
    console.print("\n" + escape(_(page)), soft_wrap=True, highlight=False)
    for other in pages.values():
        also = say("In the other language: {path}", path=str(other.resolve()))
        console.print(escape(_(also)), soft_wrap=True, highlight=False)
    if result.problems or not all(law.passed for law in result.laws):
        raise typer.Exit(FAILED)


@app.command()
def report(
    out: Out = Path("xhat-runs"),
    format: Annotated[Format, typer.Option(help="A page, or every number as tables.")] = Format.html,
    lang: Lang = Language.en,
    shipped_: Annotated[
        bool,
        typer.Option(
            "--shipped", help="Of the full run that xhat ships, in a folder of its own below --out."
        ),
    ] = False,
) -> None:
    """Write the last study's page again, or its numbers as tables, without training.

    The page is written in English and in Chinese; the one in your language is named first.
    """
    from xhat.report import run_tables, shipped, study_tables, write_pages, write_tables
    from xhat.study.store import Store

    if shipped_:
        full, folder = shipped(), out / "shipped-full"
        if full is None:
            raise UsageError("this xhat ships no full run; measure one with `xhat study --preset full`")
        if format is Format.html:
            pages = write_pages(full, folder)
            _show([pages.pop(lang), *pages.values()])
        else:  # the runs themselves are not shipped
            _show(write_tables(study_tables(full), folder / "tables", _table_format(format)))
        return
    if not out.is_dir():
        raise UsageError(f"there is no folder {out}; name the one that `xhat study` wrote with --out")
    store = Store(out)
    result = store.get_study()
    if format is Format.html:
        pages = write_pages(result, out)
        written = [pages.pop(lang), *pages.values()]
    else:
        keys = {key for claim in result.claims for key in claim.runs}
        tables = {**study_tables(result), **run_tables(run for run in store.runs() if run.key in keys)}
        written = write_tables(tables, out / "tables", _table_format(format))
    _show(written)


def _table_format(format: Format) -> Literal["csv", "parquet"]:
    return "csv" if format is Format.csv else "parquet"


def _show(paths: Iterable[Path]) -> None:
    for path in paths:
        console.print(str(path.resolve()), soft_wrap=True, highlight=False)


@app.command()
def explain(
    name: Annotated[
        str | None, typer.Argument(help="A claim, a law or a rule. Without one: the list of all.")
    ] = None,
    lang: Lang = Language.en,
) -> None:
    """Say what a claim, a law or one of the doctor's rules is, and where it comes from."""
    from xhat.cli.explain import print_catalogue, print_explanation
    from xhat.lang import translator

    _ = translator(lang)
    if name is None:
        print_catalogue(console, _, rules=True)
    else:
        print_explanation(console, name, _)


app.command()(doctor)
app.command()(recalibrate)
app.command()(fold)


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
        errors.print(f"[bold red]error:[/] {escape(_with_traceback(error))}", soft_wrap=True, highlight=False)
        code = WRONG_USAGE if isinstance(error, UsageError) else FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        errors.print(f"[bold red]error:[/] {escape(where + str(error.strerror or error))}", soft_wrap=True)
        code = FAILED
    except typer._click.ClickException as error:
        error.show()
        code = WRONG_USAGE
    sys.exit(code or OK)


def _with_traceback(error: XhatError) -> str:
    """Return the message, and where in the user's own code it came from, if it did."""
    cause = error.__cause__
    if not isinstance(error, ModelError) or cause is None or "Traceback" in str(error):
        return str(error)
    from xhat.data import user_traceback

    trace = user_traceback(cause)
    users = "  File " in trace and "-packages" not in trace  # else only libraries' own frames are left
    return f"{error}\n\n{trace}" if users else str(error)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
