"""The doctor speaks Chinese: every text of every rule is in the catalogue, and what it prints has no English left."""

import ast
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest
import torch
from rich.console import Console
from torch import nn

from xhat.cli import doctor as command
from xhat.cli import explain
from xhat.doctor import RULES, SEVERITIES, Diagnosis, diagnose, repair
from xhat.doctor.rule import NEEDS, found
from xhat.lang import Name, catalogue, listed, needs_translation, say, translator, with_names
from xhat.report.doctor_page import build_doctor_page

SOURCE = Path(str(files("xhat")))
DOCTOR = SOURCE / "doctor"
HELD = SOURCE / "lang" / "zh" / "rules"
CODE = "    "  # what a page's paragraph of code begins with
_ = translator("zh")


def said_in(*paths: Path) -> Iterator[ast.expr]:
    """Return the first argument of every say()."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "say":
                yield node.args[0]


def texts_of(code: str) -> set[str]:
    rule = RULES[code]
    said = said_in(Path(inspect.getsourcefile(rule.check) or ""))
    return {
        *(part for part in rule.page if not part.startswith(CODE)),
        *(str(template.value) for template in said if isinstance(template, ast.Constant)),
        *SEVERITIES[code].values(),
    }


TEXTS = {code: texts_of(code) for code in RULES}
MODULES = sorted(DOCTOR.rglob("*.py"))
SAID = {str(template.value) for template in said_in(*MODULES) if isinstance(template, ast.Constant)}
ALL = {*SAID, *NEEDS.values(), *(text for texts in TEXTS.values() for text in texts)}


@pytest.mark.parametrize("code", RULES)
def test_every_text_of_a_rule_has_its_chinese(code):
    assert len(TEXTS[code]) >= 8
    assert {text for text in TEXTS[code] if needs_translation(text)} - set(catalogue("zh")) == set()


def test_every_text_of_the_doctor_has_its_chinese():
    assert {text for text in ALL if needs_translation(text)} - set(catalogue("zh")) == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_sentences_are_said_with_one_literal(path):
    assert [ast.unparse(each) for each in said_in(path) if not isinstance(each, ast.Constant)] == []


@pytest.mark.parametrize("path", sorted(HELD.glob("*.json")), ids=lambda path: path.stem)
def test_no_text_is_left_that_nothing_says(path):
    held = {text for text in json.loads(path.read_text(encoding="utf-8")) if needs_translation(text)}
    own = ALL if path.stem == "_shared" else TEXTS[path.stem.upper()]
    joined = {
        text for text in held if set(re.findall(r"\w+", text)) <= {"and", *(f"part{n}" for n in range(9))}
    }
    assert held - own - joined == set()


@pytest.mark.parametrize("code", RULES)
def test_names_in_backquotes_are_the_same(code):
    names = r"`[^`]+`|BN\d{3}|arXiv \d+\.\d+|xhat\.[a-z_]+"
    for english in TEXTS[code]:
        assert sorted(re.findall(names, _(english))) == sorted(re.findall(names, english))


@pytest.mark.parametrize("code", RULES)
def test_figures_are_the_same(code):
    """Numbers with a point, a comma, a sign or a unit; words such as “one” may be digits in the other language."""
    figures = r"\d[\d,]*[\d.]*(?:e-\d+)?"
    for english in (text for text in TEXTS[code] if not re.search(r"^Source|^Looked for", text)):
        here, there = (
            {number.rstrip(".,") for number in re.findall(figures, text)} for text in (english, _(english))
        )
        assert here <= there, english


def resolved(name: str) -> object:
    """Return what a dotted name stands for; raises AttributeError where there is no such thing."""
    module, *names = name.split(".")
    found: object = importlib.import_module(module)
    for each in names:
        try:
            found = getattr(found, each)
        except AttributeError:
            assert isinstance(found, ModuleType), name
            found = importlib.import_module(f"{found.__name__}.{each}")
    return found


@pytest.mark.parametrize("code", RULES)
def test_what_a_rule_tells_to_call_exists(code):
    for text in TEXTS[code] | {part for part in RULES[code].page if part.startswith(CODE)}:
        for told in (text, _(text)):
            for name in re.findall(r"\b(?:xhat|torch|nn)\.(?:\w+\.)*\w+", told):
                assert resolved(re.sub(r"^nn\.", "torch.nn.", name)) is not None


def test_what_all_rules_share_tells_to_call_exists():
    for text in ALL:
        for name in re.findall(r"\bxhat\.[a-z_]+", text):
            resolved(name)


def english_in(text: str) -> list[str]:
    """Return runs of three English words or more."""
    words = re.sub(r"《[^》]*》|`[^`]*`|\w+\.\w+\([^)]*\)|来源：[^，]*", "", text)
    return re.findall(r"\b[a-z]{2,}(?: [a-z]{2,}){2,}", words)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    console = Console(width=10_000, record=True, file=StringIO())
    monkeypatch.setattr(command, "console", console)
    return console


@pytest.mark.parametrize("code", RULES)
def test_explain_prints_the_page_in_chinese(code, terminal):
    explain.print_explanation(terminal, code.lower(), _)
    shown = terminal.export_text()
    codes = [part for part in RULES[code].page if part.startswith(CODE)]
    for part in codes:
        assert part in shown
        shown = shown.replace(part, "")
    assert english_in(shown) == []
    assert _(RULES[code].page[0]) in shown


def test_explain_lists_rules_in_chinese(terminal):
    explain.print_catalogue(terminal, _, rules=True)
    shown = terminal.export_text()
    for rule in RULES.values():
        assert _(rule.page[0]) in shown


class Sick(nn.Module):
    """Findings of many rules at once."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Conv2d(3, 8, 3)  # a name that is also a word of the catalogue
        self.mean = nn.BatchNorm2d(8, momentum=0.99)
        self.group = nn.Sequential(
            nn.Dropout(0.5), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, eps=1.0)
        )
        self.twice = nn.BatchNorm2d(8, eps=1e-9)
        self.head = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
        with torch.no_grad():
            self.mean.running_var[0] = -1.0
            self.group[1].running_mean[1] = torch.inf
            self.group[1].weight[1:6] = 0.0
            self.group[3].running_var.fill_(1e-10)
            self.group[3].bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.group[:3](self.mean(self.input(x)).relu())
        x = self.group[3](x.bfloat16()).float()
        return self.head(self.twice(self.twice(x)).mean((2, 3)))


def seen() -> tuple[nn.Module, Diagnosis, list]:
    torch.manual_seed(0)
    net = Sick()
    batches = [(torch.randn(size, 3, 8, 8), torch.randint(4, (size,))) for size in (8, 8, 8, 2)]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=1e-4)
    return net, diagnose(net, batches, optimizer=optimizer), batches


def test_a_diagnosis_is_chinese_whole(terminal):
    net, diagnosis, batches = seen()
    assert len({finding.code for finding in diagnosis.findings}) >= 9
    missing: list[str] = []
    command.print_diagnosis(diagnosis, translator("zh", missing=missing.append))
    assert [text for text in missing if re.search("[a-z]+ [a-z]+", text)] == []  # codes and names are kept
    assert english_in(terminal.export_text()) == []
    done = repair(net, diagnosis, batches=batches, codes=["BN106", "BN201", "BN202", "BN204"])
    for told in [*(change.what for change in done.changes), *(refusal.reason for refusal in done.refusals)]:
        assert english_in(_(told)) == [], told


def test_without_batches_too(terminal):
    torch.manual_seed(0)
    command.print_diagnosis(diagnose(Sick()), _)
    shown = terminal.export_text()
    assert english_in(shown) == []
    assert "需要批数据；需要 torch.distributed 的多个进程" in shown


def test_the_page_is_chinese_whole():
    net, diagnosis, _batches = seen()
    page = build_doctor_page(net, diagnosis, lang="zh")
    body = re.sub(r"<style>.*?</style>|<pre>.*?</pre>", "", page, flags=re.DOTALL)
    assert english_in(re.sub(r"<[^>]*>", "\n", body)) == []


def test_names_of_modules_are_not_translated():
    """A layer may be called what a catalogue has as a word."""
    assert _("mean") == "均值"
    message = say("its bias is cancelled by {norm}: {count} parameters without effect", norm="mean", count=3)
    finding = found("BN101", "input", message, evidence={}, remedy=say("Make the layer with bias=False."))
    assert "mean" in _(finding.message)
    assert finding.message == message
    nested = with_names(say("{name} in {module}", name="mean", module=say("the model")))
    assert _(nested) == "模型 中的 mean"
    assert _(with_names(listed(["mean", "input"]))) == "mean；input"
    assert _(with_names("mean")) == "均值"
    assert _(Name("mean")) == "mean"
