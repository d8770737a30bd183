"""What surgery changes and leaves, and why, is said in Chinese too; names of modules stay."""

import ast
import json
import re
from importlib.resources import files
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from tests.lang.test_rules import english_in, said_in
from xhat import add_batch_norm, convert_group_norm, drop_bias, remove_batch_norm
from xhat import fold as fold_
from xhat.cli import fold as command
from xhat.lang import catalogue, needs_translation, translator
from xhat.surgery import Surgery

SOURCE = Path(str(files("xhat")))
MODULES = [path for part in ("surgery", "dataflow") for path in sorted((SOURCE / part).rglob("*.py"))]
SAID = {str(template.value) for template in said_in(*MODULES) if isinstance(template, ast.Constant)}
_ = translator("zh")


def test_every_text_has_its_chinese() -> None:
    assert len(SAID) > 70
    assert {text for text in SAID if needs_translation(text)} - set(catalogue("zh")) == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_sentences_are_said_with_one_literal(path: Path) -> None:
    assert [ast.unparse(each) for each in said_in(path) if not isinstance(each, ast.Constant)] == []


def test_no_text_is_left_that_nothing_says() -> None:
    held = json.loads((SOURCE / "lang" / "zh" / "surgery.json").read_text(encoding="utf-8"))
    assert set(held) - SAID == set()


class Net(nn.Module):
    """Names that are words of the catalogue, and batch norms of all kinds of fate."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Conv2d(3, 4, 3)
        self.mean = nn.BatchNorm2d(4)
        self.pool = nn.AvgPool2d(2)
        self.behind = nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.unused = nn.BatchNorm2d(4)
        self.changed = nn.Conv2d(4, 4, 1)
        self.late = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.behind(self.pool(self.mean(self.input(x)))).relu()
        x = self.norm(self.twice(self.twice(x)))
        x = self.late(self.changed(x).relu_())
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


@pytest.mark.parametrize(
    "surgery", [fold_, drop_bias, remove_batch_norm, add_batch_norm, lambda net, x: convert_group_norm(net)]
)
def test_changes_and_reasons_are_chinese_whole(surgery) -> None:
    torch.manual_seed(0)
    net = Net()
    net.mean.register_forward_hook(lambda *_: None)
    made: Surgery = surgery(net, torch.randn(4, 3, 8, 8))
    told = [*(change.what for change in made.changes), *(refusal.reason for refusal in made.refusals)]
    assert len(told) >= 2
    assert [english_in(_(text)) for text in told if english_in(_(text))] == []
    assert all(re.search("[\u4e00-\u9fff]", _(text)) for text in told)


def test_names_stay_where_a_catalogue_has_them_as_words() -> None:
    torch.manual_seed(0)
    (reason, *_others) = [refusal.reason for refusal in fold_(Net(), torch.randn(4, 3, 8, 8)).refusals]
    assert reason == "its input comes from pool of class AvgPool2d, no convolution or linear layer"
    assert _(reason) == "它的输入来自 pool，其类为 AvgPool2d，不是卷积层或线性层"
    (change, *_rest) = fold_(Net(), torch.randn(4, 3, 8, 8)).changes
    assert _(change.what) == "折叠进它之前的 input"


def test_the_command_prints_no_english(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=10_000, record=True, file=StringIO())
    monkeypatch.setattr(command, "console", console)
    torch.manual_seed(0)
    command._print(fold_(Net(), torch.randn(4, 3, 8, 8)), _)
    shown = console.export_text()
    assert english_in(shown) == []
    assert "示例输入没有到达它" in shown
