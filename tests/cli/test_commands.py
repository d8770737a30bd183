import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

import xhat
from xhat.cli import main
from xhat.cli.expected import expected
from xhat.cli.progress import StudyProgress
from xhat.cli.tables import print_effects, print_study
from xhat.lang import translator
from xhat.study.claims import CLAIMS
from xhat.study.executors import SharedExecutor
from xhat.study.laws import LAWS
from xhat.study.result import Study
from xhat.study.store import Store

from ..report.many import full as full_study
from ..report.sample import effect
from ..report.sample import study as sample_study
from ..study.users import DATA, NETWORK, module_writer

MAIN = sys.modules["xhat.cli.main"]
RUN = sys.modules["xhat.study.run"]


class Here(Executor):
    """Does a task in this process: to start a worker takes seconds."""

    def submit(self, work: Callable, /, *args, **kwargs) -> Future:
        future: Future = Future()
        try:
            future.set_result(work(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """Everything, without line breaks and frames."""
        return " ".join((self.out + self.err).replace("│", " ").split())


Command = Callable[..., Said]


@pytest.fixture
def xhat_(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> Iterator[Command]:
    """Run a command as the shell would, in this process and in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(RUN, "LocalPool", lambda workers: SharedExecutor(Here()))
    before = signal.getsignal(signal.SIGTERM)

    def command(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["xhat", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return Said(int(left.value.code or 0), captured.out, captured.err)

    yield command
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(autouse=True)
def ship(monkeypatch: pytest.MonkeyPatch) -> Callable[[Study | None], None]:
    """Set the shipped full run: at first there is none."""

    def ship_it(study: Study | None) -> None:
        for module in ("xhat.report.build", "xhat.cli.explain", "xhat.cli.expected"):
            monkeypatch.setattr(f"{module}.shipped", lambda: study)

    ship_it(None)
    return ship_it


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    return module_writer(tmp_path, monkeypatch)


# --- help


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--help"], ["study", "report", "explain", "--version", "Does batch norm help my network"]),
        (
            ["study", "--help"],
            ["--preset", "--claims", "--model", "--data", "--out", "--seeds", "--workers", "--list"],
        ),
        (["report", "--help"], ["--format", "html|csv|parquet", "without training"]),
        (["explain", "--help"], ["A claim, a law or a rule"]),
    ],
)
def test_help(xhat_, words, expected):
    said = xhat_(*words)
    assert said.code == 0
    for part in expected:
        assert part in said.words


def test_version(xhat_):
    assert xhat_("--version").out == f"xhat {xhat.__version__}\n"


@pytest.mark.parametrize("command", [["xhat"], ["python", "-m", "xhat"]])
def test_the_installed_command_starts_without_torch(command):
    """As the shell does it, in a fresh process; seconds would pass if it imported torch."""
    place = Path(sys.executable).parent
    called = subprocess.run(
        [str(place / command[0]), *command[1:], "--version"],
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
    )
    assert (called.returncode, called.stdout) == (0, f"xhat {xhat.__version__}\n")
    assert "typer" in called.stderr
    assert "torch" not in called.stderr


# --- wrong usage


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "Usage: xhat"),
        (["stduy"], "Did you mean 'study'?"),
        (["study", "--preset", "quik"], "error: unknown preset 'quik'. Did you mean quick?"),
        (
            ["study", "--claims", "larger-rl"],
            "error: unknown claim or law 'larger-rl'. Did you mean larger-lr?",
        ),
        (["study", "--claims", "lipschitz,larger-rl"], "Did you mean larger-lr?"),
        (["study", "--claims", " , "], "error: --claims names nothing"),
        (["study", "--lang", "fr"], "'fr' is not one of 'en', 'zh'"),
        (["study", "--data", "digit"], "error: unknown data 'digit'. Did you mean digits?"),
        (["study", "--model", "net:make"], "--model and --data go together"),
        (
            ["study", "--model", "vgg", "--data", "digits", "--preset", "smoke"],
            "'vgg' does not name a network of yours: write module:callable",
        ),
        (["study", "--model", "nowhere:make", "--data", "digits", "--preset", "smoke"], "'nowhere'"),
        (["study", "--seeds", "1"], "error: 1 seeds"),
        (["study", "--seeds", "some"], "Invalid value for '--seeds'"),
        (["study", "--steps", "1"], "error: 1 steps train nothing"),
        (["study", "--device", "cdua"], "error: unknown device 'cdua'. Did you mean cuda"),
        (["study", "--workers", "0"], "Invalid value for '--workers'"),
        (["study", "--preset", "paper"], "--data cifar10:FOLDER"),
        (["report", "--out", "nowhere"], "there is no folder nowhere"),
        (["report", "--format", "xlsx"], "Invalid value for '--format'"),
        (["explain", "larger-rl"], "error: unknown claim, law or rule 'larger-rl'. Did you mean larger-lr?"),
    ],
)
def test_wrong_usage_is_told_and_exits_with_2(xhat_, words, told):
    said = xhat_(*words)
    assert said.code == 2
    assert told in said.words
    assert "Traceback" not in said.words


def test_markup_in_an_error_is_shown_as_it_came(xhat_):
    assert "unknown claim or law '[red]x[/]'" in xhat_("study", "--claims", "[red]x[/]").words


# --- study


def test_a_study_of_laws(xhat_, tmp_path):
    said = xhat_("study", "--claims", "lipschitz, stand*")
    assert said.code == 0
    assert "2 laws, float64: all hold" in said.words
    assert f"The page: {tmp_path}/xhat-runs/report.html" in said.words
    assert f"In the other language: {tmp_path}/xhat-runs/report.zh.html" in said.words
    for name, lang in (("report.html", "en"), ("report.zh.html", "zh")):
        page = (tmp_path / "xhat-runs" / name).read_text()
        assert "lipschitz" in page
        assert f'<html lang="{lang}">' in page
    assert len(Store(tmp_path / "xhat-runs").keys()) == 2


def test_a_study_of_a_users_network(xhat_, write_module, tmp_path):
    name = write_module(NETWORK + DATA)
    asked = ["study", "--preset", "smoke", "--model", f"{name}:make_model", "--data", f"{name}:make_data"]
    said = xhat_(*asked, "--claims", "larger-lr", "--seeds", "3", "--steps", "10", "--out", "mine")
    assert said.code == 0
    assert "larger-lr: inconclusive" in said.words
    assert f"largest rate that trains, {name}:make_model" in said.words
    (claim,) = Store(tmp_path / "mine").get_study().claims
    assert {effect.name for effect in claim.effects} == {f"largest rate that trains, {name}:make_model"}
    assert {run.record["spec"]["steps"] for run in Store(tmp_path / "mine").runs()} == {10}


def test_an_error_in_a_users_module_comes_with_its_own_traceback(xhat_, write_module):
    name = write_module("def helper():\n    return 1 / 0\n\nhelper()\n")
    said = xhat_("study", "--preset", "smoke", "--model", f"{name}:make", "--data", f"{name}:data")
    assert said.code == 1
    for part in (f"{name}.py", "line 4", "line 2, in helper", "ZeroDivisionError: division by zero"):
        assert part in said.words
    assert "xhat/data" not in said.words


FAILS = """

def fails(norm):
    raise RuntimeError("no [bold]memory[/] for you")


class Tired(nn.Sequential):
    def forward(self, x):
        self.passes = getattr(self, "passes", 0) + 1
        if self.passes > 5:
            raise RuntimeError("too tired")
        return super().forward(x)


def tires(norm):
    return Tired(*make_model(norm))
"""


def test_a_network_that_cannot_be_made_exits_with_1(xhat_, write_module):
    name = write_module(NETWORK + DATA + FAILS)
    asked = ["study", "--preset", "smoke", "--model", f"{name}:fails", "--data", f"{name}:make_data"]
    said = xhat_(*asked, "--claims", "larger-lr")
    assert said.code == 1
    assert "raised RuntimeError: no [bold]memory[/] for you" in said.words


def test_runs_that_fail_are_listed_and_exit_with_1(xhat_, write_module, tmp_path):
    name = write_module(NETWORK + DATA + FAILS)
    asked = ["study", "--preset", "smoke", "--model", f"{name}:tires", "--data", f"{name}:make_data"]
    said = xhat_(*asked, "--claims", "larger-lr,lipschitz")
    assert said.code == 1
    assert "1 law, float64: all hold" in said.words
    assert "of larger-lr failed: RuntimeError: too tired" in said.words
    assert "not measured: larger-lr" in said.words
    assert (tmp_path / "xhat-runs" / "report.html").exists()


def test_a_folder_that_cannot_be_used_exits_with_1(xhat_, tmp_path):
    (tmp_path / "file").write_text("mine")
    said = xhat_("study", "--claims", "lipschitz", "--out", "file")
    assert said.code == 1
    assert "error: the output folder file cannot be used" in said.words


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_exits_with_130_and_says_how_to_go_on(xhat_, monkeypatch, sign):
    monkeypatch.setattr(RUN, "make_plan", lambda *args, **asked: signal.raise_signal(sign))
    said = xhat_("study", "--claims", "lipschitz", "--out", "[odd]")
    assert said.code == 130
    assert "Finished runs are kept" in said.words
    assert "`xhat report --out [odd]`" in said.words


# --- report


@pytest.fixture
def stored(xhat_, tmp_path) -> Path:
    """A folder with a small study of a claim and a law."""
    out = tmp_path / "stored"
    assert (
        xhat_("study", "--preset", "smoke", "--claims", "init-insensitive,lipschitz", "--out", out).code == 0
    )
    return out


def test_report_without_a_study(xhat_, tmp_path):
    (tmp_path / "empty").mkdir()
    said = xhat_("report", "--out", "empty")
    assert said.code == 1
    assert "no study in empty: run `xhat study --out empty` first" in said.words


def test_report_writes_the_same_page_again(xhat_, stored):
    page = stored / "report.html"
    chinese = stored / "report.zh.html"
    first = page.read_text(), chinese.read_text()
    page.unlink()
    chinese.unlink()
    said = xhat_("report", "--out", stored)
    assert (said.code, said.out) == (0, f"{page}\n{chinese}\n")
    assert (page.read_text(), chinese.read_text()) == first
    assert xhat_("report", "--out", stored, "--lang", "zh").out == f"{chinese}\n{page}\n"


@pytest.mark.parametrize(("format_", "read"), [("csv", pd.read_csv), ("parquet", pd.read_parquet)])
def test_report_as_tables(xhat_, stored, format_, read):
    said = xhat_("report", "--out", stored, "--format", format_)
    assert said.code == 0
    files = [Path(line) for line in said.out.split()]
    tables = {file.stem: read(file) for file in files if file.stat().st_size > 2}
    assert {"effects", "laws", "curves", "members", "losses"} <= set(tables)
    assert all(file.parent == stored / "tables" and file.suffix == f".{format_}" for file in files)

    study = Store(stored).get_study()
    (claim,) = study.claims
    effects = tables["effects"]
    assert effects["effect"].tolist() == [effect.name for effect in claim.effects]
    assert effects["estimate"].tolist() == pytest.approx([e.estimate for e in claim.effects], nan_ok=True)
    assert set(tables["laws"]["law"]) == {"lipschitz"}
    assert tables["laws"]["passed"].all()
    runs = [run for run in Store(stored).runs() if run.record["spec"]["kind"] == "train"]
    assert len(tables["members"]) == sum(len(run.record["spec"]["members"]) for run in runs)
    assert len(tables["losses"]) == sum(run.arrays["loss"].size for run in runs)
    assert set(tables["members"]["norm"]) == {"none", "layer", "batch"}


def test_report_of_a_damaged_study_says_what_to_do(xhat_, stored):
    (stored / "study.json").write_text("{")
    said = xhat_("report", "--out", stored)
    assert said.code == 1
    assert "study.json cannot be read" in said.words
    assert "makes it anew from the finished runs, without training" in said.words


# --- explain


def test_explain_lists_all(xhat_):
    said = xhat_("explain")
    assert said.code == 0
    for name in (*CLAIMS, *LAWS):
        assert f" {name} " in said.words


@pytest.mark.parametrize("name", CLAIMS)
def test_explain_a_claim(xhat_, name):
    said = xhat_("explain", name)
    assert said.code == 0
    text = CLAIMS[name].text
    for part in (
        text.title,
        text.says,
        text.measured,
        text.threshold,
        text.does_not_show,
        text.source,
        text.cost,
    ):
        assert " ".join(part.split()) in said.words
    assert f"xhat study --claims {name}" in said.words


@pytest.mark.parametrize("name", LAWS)
def test_explain_a_law(xhat_, name):
    said = xhat_("explain", name)
    assert said.code == 0
    words = " ".join(inspect.getmodule(LAWS[name]).__doc__.split()).removeprefix("Law: ")
    assert words[:40].lower() in said.words.lower()
    assert "Source: " in said.words
    assert f"xhat study --claims {name}" in said.words


# --- the shipped full run


@pytest.mark.parametrize("command", [["study", "--list"], ["explain"]])
def test_the_list_of_claims_and_laws_with_the_full_runs_verdicts(xhat_, ship, tmp_path, command):
    before = xhat_(*command)
    assert before.code == 0
    assert "full run" not in before.words
    ship(full_study())
    said = xhat_(*command)
    rows = {words[1]: words for line in said.out.splitlines() if len(words := line.split()) > 2}
    assert rows["smoother-loss"][-1] == "contradicted"  # as the sample has it
    assert rows["larger-lr"][-1] == "supported"
    assert rows["standardise"][-1] == "holds"
    assert "started 2026-10-01 08:00 UTC, commit fedcba987654, Other CPU @ 3.00GHz" in said.words
    assert list(tmp_path.iterdir()) == []


def test_explain_says_what_the_full_run_found(xhat_, ship):
    assert "Full run" not in xhat_("explain", "larger-lr").words
    ship(full_study())
    assert "Full run supported" in xhat_("explain", "larger-lr").words
    assert "4.1 [2.4, 7.2]" in xhat_("explain", "larger-lr").words
    assert "Full run holds" in xhat_("explain", "standardise").words


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        (None, "Expected: about 1 h 21 min with 3 worker processes"),  # 7300 s with 2
        (["larger-lr"], "Expected: about 2 min 17 s with 3 worker processes"),  # 412 s of one process
        (["larger*", "smoother-loss"], "Expected: about 4 min 35 s"),
    ],
)
def test_the_time_of_a_full_run_is_told_from_the_shipped_one(ship, claims, told):
    ship(full_study())
    assert expected("full", claims, 3).startswith(told)


def test_expected_times_without_a_shipped_run():
    assert expected("quick", None, 2) == ""
    assert expected("full", None, 2).startswith("A full study takes hours on 2 cores. Finished runs are kept")
    assert "for a large machine" in expected("paper", None, None)


# --- Chinese


def test_the_language_of_an_option_or_of_the_environment(xhat_, monkeypatch):
    assert "定律，float64：全部成立" in xhat_("study", "--claims", "lipschitz", "--lang", "zh").words.replace(
        " ", ""
    )
    monkeypatch.setenv("XHAT_LANG", "zh")
    said = xhat_("study", "--claims", "lipschitz")
    assert "页面：" in said.out
    assert said.out.index("report.zh.html") < said.out.index("report.html")
    assert "笔记的说法" in xhat_("explain", "larger-lr").words
    assert "论断" in xhat_("study", "--list").words
    assert "The notes say" in xhat_("explain", "larger-lr", "--lang", "en").words
    monkeypatch.setenv("XHAT_LANG", "de")
    assert xhat_("explain").code == 2


# --- what the terminal shows


def shown(width: int = 100, lang: str = "en") -> str:
    console = Console(file=StringIO(), width=width)
    print_study(console, sample_study(), translator(lang))
    return " ".join(console.file.getvalue().split())


@pytest.mark.parametrize("width", [40, 100, 200])
def test_a_study_in_the_terminal(width):
    study, text = sample_study(), shown(width)
    for claim in study.claims:
        assert f"{claim.text.id} {claim.verdict}" in text
    for problem in study.problems:
        assert " ".join(problem.split()) in text
    assert f"not measured: {', '.join(study.unfinished)}" in text
    failed = [law.id for law in study.laws if not law.passed]
    assert (f"fail: {', '.join(failed)}" if failed else "all hold") in text
    assert "2 supported, 1 contradicted, 2 inconclusive" in text


def test_a_study_in_chinese_in_the_terminal():
    text = shown(80, "zh")
    assert "larger-lr 支持" in text
    assert "要求 > 2" in text
    assert "2 支持, 1 否定, 2 未定" in text


def test_an_open_effect_says_why_in_the_terminal():
    console = Console(file=StringIO(), width=80)
    open_ = effect("accuracy", "points", (-1.0, 1.0, 3.0), 0.0, note="2 pairs could be compared")
    print_effects(console, (open_, replace(open_, verdict="supported", note="not this")))
    lines = console.file.getvalue().splitlines()
    assert lines[0].split("  ")[1].strip() == "1 [-1, 3]"
    assert sum("2 pairs could be compared" in line for line in lines) == 1
    assert "not this" not in console.file.getvalue()
    assert max(map(len, lines)) <= 80


def test_progress_in_a_terminal_is_a_bar_a_claim():
    console = Console(file=StringIO(), force_terminal=True, width=100)
    claim = sample_study().claims[0]
    with StudyProgress(console) as progress:
        progress.planned("larger-lr", 10.0)
        progress.progressed("larger-lr", 5.0)
        progress._bars.refresh()
        progress.planned("larger-lr", 20.0)  # it asks for more
        progress.finished("larger-lr", claim)
        progress._bars.refresh()
    text = console.file.getvalue()
    assert "larger-lr" in text
    assert "in total" in text
    assert " 50%" in text
    assert "100%" in text


def test_progress_without_a_terminal_is_a_line_a_claim():
    console = Console(file=StringIO(), width=100)
    study = sample_study()
    with StudyProgress(console) as progress:
        progress.planned("a", 1.0)
        progress.progressed("a", 0.5)
        progress.finished("a", study.claims[0])
        progress.finished("law", study.laws[0])
    (line,) = console.file.getvalue().splitlines()
    assert line.startswith(f"a: {study.claims[0].verdict} (")
