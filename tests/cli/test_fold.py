"""``xhat fold``: a user's network and one batch in, an exported program without batch norms out."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.lang.test_rules import english_in

from .running import running

NETWORK = """
import torch
from torch import nn


def model():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(144, 3),
    )
    net[1].running_mean.uniform_(-1, 1)
    net[1].running_var.uniform_(0.5, 2)
    return net


class Printing(nn.Module):
    def forward(self, x):
        open("/dev/null").close()
        return x if x.sum().item() > 0 else -x


def unexported():
    return nn.Sequential(model(), Printing())


def batches():
    return [(torch.randn(6, 1, 8, 8), torch.zeros(6))]


def wrong():
    return [(torch.randn(6, 2, 8, 8), torch.zeros(6))]


def interrupted():
    raise KeyboardInterrupt
    yield
"""


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str]]]:
    """Run ``xhat fold`` on the network above in an empty folder; exit code and all that was printed."""
    with running(NETWORK, tmp_path, monkeypatch, capsys) as (name, xhat_):

        def run(model: str = "model", data: str = "batches", *words: str) -> tuple[int, str]:
            said = xhat_("fold", f"{name}:{model}", "--data", f"{name}:{data}", *words)
            return said.code, said.out + said.err

        run.module = name  # type: ignore[attr-defined]
        yield run


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning", "ignore:.*deprecated:DeprecationWarning")
def test_the_program_gives_the_networks_outputs_at_any_batch_size(command, tmp_path):
    code, said = command("model", "batches", "--out", "served.pt2")
    assert code == 0, said
    assert "Folded batch norms: 1; left as they are: 1" in said
    assert "its input comes from 2 of class ReLU" in said
    assert f"Written: {tmp_path / 'served.pt2'}" in said
    program = torch.export.load(tmp_path / "served.pt2").module()
    net = sys.modules[command.module].model().eval()
    x = torch.randn(11, 1, 8, 8)
    torch.testing.assert_close(program(x), net(x), rtol=1e-4, atol=1e-5)


def test_without_a_file_it_only_reports(command, tmp_path):
    code, said = command()
    assert code == 0
    assert "Folded batch norms: 1" in said
    assert not list(tmp_path.glob("*.pt2"))


@pytest.mark.parametrize(
    ("model", "data", "words", "code", "message"),
    [
        ("model", "batches", ["--out", "served.onnx"], 2, "name it served.pt2"),
        ("model", "wrong", [], 1, "expected input[6, 2, 8, 8] to have 1 channels"),
        ("unexported", "batches", ["--out", "served.pt2"], 1, "torch.export cannot write it"),
        ("model", "interrupted", [], 130, "Nothing was written"),
        ("nothing", "batches", [], 2, "nothing"),
    ],
)
def test_errors(command, tmp_path, model, data, words, code, message):
    left, said = command(model, data, *words)
    assert left == code, said
    assert message in said
    assert not list(tmp_path.glob("*.pt2*"))


def test_the_report_is_chinese_whole(command):
    code, said = command("model", "batches", "--lang", "zh")
    assert code == 0, said
    assert "它的输入来自 2，其类为 ReLU，不是卷积层或线性层" in said
    assert english_in(said) == []
