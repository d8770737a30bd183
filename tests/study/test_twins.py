"""A factory that takes no norm: its twin is made, with the same initial weights and the same function."""

import pytest
import torch
from torch import nn

from xhat.data import load
from xhat.errors import ModelError
from xhat.norms import batch_norms
from xhat.study import run
from xhat.study.networks import build
from xhat.study.spec import Member, Network
from xhat.study.twins import takes_norm

from .users import module_writer

DIGITS = load("digits")

PLAIN = """
from torch import nn

def make_model():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10))
"""
NORMED = """
from torch import nn

def make_model(width=4):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.BatchNorm2d(width), nn.Conv2d(width, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10)
    )
"""


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    return module_writer(tmp_path, monkeypatch)


def arms(write_module, folder, text, seed=3):
    name = f"{write_module(text)}:make_model"
    return tuple(
        build(Network(name, norm), (Member(seed, 0.1, "own"),), DIGITS, folder) for norm in ("none", "batch")
    )


@pytest.mark.parametrize(("text", "norms"), [(PLAIN, 2), (NORMED, 2)])
def test_one_arm_has_batch_norm_the_other_none_and_weights_are_shared(write_module, tmp_path, text, norms):
    plain, normed = arms(write_module, tmp_path, text)
    assert not batch_norms(plain)
    assert len(batch_norms(normed)) == norms
    first, second = ([p for p in m.parameters() if p.dim() > 1] for m in (plain, normed))
    assert len(first) == 3
    assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))


@pytest.mark.parametrize("text", [PLAIN, NORMED])
def test_both_arms_begin_with_the_same_function(write_module, tmp_path, text):
    plain, normed = (model.double().eval() for model in arms(write_module, tmp_path, text))
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(plain(x), normed(x), rtol=1e-4, atol=1e-5)
    assert plain(x).std() > 0.01


def test_another_seed_gives_other_weights(write_module, tmp_path):
    first, second = (arms(write_module, tmp_path, PLAIN, seed)[0][0].weight for seed in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        (lambda norm: None, True),
        (lambda norm="batch": None, True),
        (lambda kind: None, True),
        (lambda *args: None, True),
        (lambda: None, False),
        (lambda width=4: None, False),
        (lambda *, width=4: None, False),
        (nn.Identity, True),  # takes *args
    ],
)
def test_who_is_told_the_norm(factory, told):
    assert takes_norm(factory) is told


@pytest.mark.parametrize(
    ("body", "norm", "words"),
    [
        ("return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))", "batch", "no other layer follows"),
        ("return nn.Flatten()", "batch", "no layer to put one behind"),
        (
            "return nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(64, 10))",
            "none",
            "normalises with the batch's statistics",
        ),
        (
            """class Thrice(nn.Sequential):
        def forward(self, x):
            for _ in range(3):
                x = self[1](x).relu()
            return self[2](self[0](x).flatten(1))
    return Thrice(nn.Conv2d(1, 4, 3), nn.Conv2d(1, 1, 3, padding=1), nn.Linear(144, 10))""",
            "batch",
            r"with batch norm \(1: it is called 3 times",
        ),
        ("return nn.Linear(64, 10)", "layer", "this claim needs 'layer'"),
        ("return 3", "none", r"make_model\(\) returned int"),
    ],
)
def test_a_twin_that_cannot_be_made(write_module, tmp_path, body, norm, words):
    text = f"from torch import nn\ndef make_model():\n    {body}\n"
    name = f"{write_module(text)}:make_model"
    with pytest.raises(ModelError, match=words):
        build(Network(name, norm), (Member(0, 0.1, "own"),), DIGITS, tmp_path)


def test_a_study_of_a_plain_network(write_module, tmp_path):
    name = f"{write_module(PLAIN)}:make_model"
    study = run(
        "smoke", claims=["larger-lr"], model=name, data="digits", out=tmp_path / "runs", folder=tmp_path
    )
    assert not study.problems
    assert study.claims[0].runs
