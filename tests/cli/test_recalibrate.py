"""``xhat recalibrate``: a user's network, weights and batches in, safetensors out."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import xhat

from .running import running
from .test_commands import Said

NETWORK = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.tied = self.body[0]

    def forward(self, x):
        return self.body(x)


def model():
    torch.manual_seed(0)
    return Net()


def frozen():
    net = model()
    net.body[1].eval()
    return net


def batches():
    torch.manual_seed(1)
    return [(torch.randn(size, 3) + 2, None) for size in (5, 7, 1)]


def singles():
    return [torch.randn(1, 3)]


def wide():
    return [torch.randn(5, 3), torch.randn(5, 4)]


def interrupted():
    yield batches()[0]
    raise KeyboardInterrupt
"""


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Said]]:
    """Run ``xhat recalibrate module:… --data module:…`` on the network above, in an empty folder."""
    with running(NETWORK, tmp_path, monkeypatch, capsys) as (name, xhat_):

        def run(
            model: str = "model", data: str = "batches", *words: object, out: str = "new.safetensors"
        ) -> Said:
            return xhat_("recalibrate", f"{name}:{model}", "--data", f"{name}:{data}", "--out", out, *words)

        run.module = lambda: importlib.import_module(name)  # type: ignore[attr-defined]
        yield run


@pytest.mark.parametrize("words", [[], ["--sequential"], ["--limit", 1]], ids=str)
def test_what_is_written_is_what_the_library_does(command, tmp_path, words):
    said = command("model", "batches", *words)
    assert said.code == 0, said.err
    user = command.module()
    model = user.model()
    xhat.recalibrate_(
        model, user.batches(), sequential="--sequential" in words, limit=1 if "--limit" in words else None
    )
    written = load_file(tmp_path / "new.safetensors")
    assert written.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(written[key], value, rtol=0, atol=0)
    assert "Recalibrated layers: 2; batches: " in said.words
    assert f"passes: {2 if '--sequential' in words else 1}" in said.words
    assert ("Batches left out: 1, where" in said.words) == (not words)
    assert f"Written: {tmp_path / 'new.safetensors'}" in said.words
    assert [
        path.name for path in tmp_path.iterdir() if path.suffix != ".py" and path.name != "__pycache__"
    ] == ["new.safetensors"]


def test_weights_in_and_out(command, tmp_path):
    user = command.module()
    trained = user.model()
    torch.nn.init.constant_(trained.body[0].weight, 0.25)
    torch.save({"state_dict": {f"module.{k}": v for k, v in trained.state_dict().items()}}, tmp_path / "w.pt")
    assert command("model", "batches", "--weights", "w.pt").code == 0
    written = load_file(tmp_path / "new.safetensors")
    assert torch.equal(written["body.0.weight"], torch.full((4, 3), 0.25))
    # What was written is weights again, and on the same batches nothing moves.
    said = command("model", "batches", "--weights", "new.safetensors", out="again.safetensors")
    assert said.code == 0
    again = load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(written[key], again[key]) for key in written)


def test_kept_layers_are_told(command):
    said = command("frozen")
    assert "Kept as it was: body.1, in evaluation mode while the model is in training mode" in said.words
    assert "Recalibrated layers: 1;" in said.words


def test_in_chinese(command):
    said = command("frozen", "batches", "--lang", "zh")
    assert "保持原样：body.1，模型处于训练模式而它处于评估模式" in said.words
    assert "已写入" in said.words
    assert "Kept" not in said.words
    assert "moved" not in said.words
    assert "left out" not in said.words


@pytest.mark.parametrize(
    ("words", "options", "code", "message"),
    [
        (["nothing"], {}, 2, "unknown callable"),
        (["model", "singles"], {}, 1, "less than two values a channel at batch norm 'body.1'"),
        (["model", "nothing"], {}, 2, "unknown callable"),
        (["model", "wide"], {}, 1, "failed in evaluation mode on batch 1 (tensor (5, 4))"),
        (["model", "batches", "--weights", "none.pt"], {}, 2, "there is no file none.pt"),
        (["model", "batches", "--limit", "0"], {}, 2, "--limit"),
        (["model", "batches"], {"out": "new.pt"}, 2, "name it new.safetensors"),
        (["batches", "batches"], {}, 1, "a network is needed"),
        (["model", "interrupted"], {}, 130, "Stopped. Nothing was written."),
        (["model", "interrupted", "--lang", "zh"], {}, 130, "没有写入任何文件"),
    ],
)
def test_failures_write_nothing(command, tmp_path, words, options, code, message):
    said = command(*words, **options)
    assert message in said.words
    assert "site-packages" not in said.err
    assert said.code == code
    assert not list(tmp_path.glob("*new*"))


def test_what_is_there_is_replaced_whole_or_not_at_all(command, tmp_path):
    (tmp_path / "new.safetensors").write_bytes(b"old")
    assert command("model", "interrupted").code == 130
    assert (tmp_path / "new.safetensors").read_bytes() == b"old"
    assert command().code == 0
    assert len(load_file(tmp_path / "new.safetensors")) > 5
