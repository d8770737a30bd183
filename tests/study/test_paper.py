"""The preset of the papers' sizes, at few steps on made-up files in CIFAR-10's layout."""

from pathlib import Path

import pytest

from tests.data.test_cifar10 import NAMES, records
from xhat.models import VGG
from xhat.study import networks, run
from xhat.study.claim import Context
from xhat.study.claims import CLAIMS
from xhat.study.store import Store

from .made import all_train, judged
from .test_run import Here


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(NAMES):
        records(30, seed).tofile(tmp_path / name)
    return tmp_path


def test_paper_runs_at_few_steps(folder, monkeypatch):
    def narrow(channels: int, classes: int, *, width: int, **options) -> VGG:
        assert width == 64  # the paper's
        return VGG(channels, classes, width=2, **options)

    monkeypatch.setattr(networks, "VGG", narrow)
    study = run(
        "paper",
        claims=["larger-lr", "lipschitz"],
        data=f"cifar10:{folder}",
        steps=10,
        seeds=3,
        out=folder / "out",
        executor=Here(),
    )
    assert [claim.text.id for claim in study.claims] == ["larger-lr"]
    assert study.problems == ()
    specs = [
        found.record["spec"] for found in Store(folder / "out").runs() if "steps" in found.record["spec"]
    ]
    assert {spec["steps"] for spec in specs} == {10}
    assert {spec["batch_size"] for spec in specs} == {128}
    # convolutions see CIFAR-10; MLPs stay with the images that xhat ships
    data = {(spec["network"]["name"], spec["data"]["name"]) for spec in specs}
    assert data == {("vgg", f"cifar10:{folder}"), ("mlp", "fashion-mnist")}


@pytest.mark.parametrize("name", CLAIMS)
def test_every_claim_can_be_asked_for_it(name, folder):
    result = judged(CLAIMS[name], all_train, Context("paper", data=f"cifar10:{folder}", seeds=4))
    assert result.effects
    assert result.runs


def sizes(name: str) -> list:
    return list(next(CLAIMS[name].measure(Context("paper", data="cifar10:here"))))


def test_the_protocol_of_santurkar_et_al():
    """VGG at learning rates 0.1, 0.5 and 0.01; the deep linear network at 1e-6 and 1e-7."""
    specs = sizes("smoother-loss")
    vgg = [spec for spec in specs if spec.network.name == "vgg"]
    assert {(s.steps, s.batch_size, s.data.train, s.data.pool) for s in vgg} == {(15_000, 128, None, 1)}
    assert {m.lr for s in vgg for m in s.members} == {0.1, 0.5, 0.01}
    assert {m.init for s in specs for m in s.members} == {"xavier"}
    linear = [spec for spec in specs if spec.network.name == "deep-linear"]
    assert {(s.steps, dict(s.network.options)["depth"]) for s in linear} == {(10_000, 25)}
    assert {m.lr for s in linear for m in s.members} == {1e-6, 1e-7}
    ratios = {s.network.name: s.probe.ratios for s in specs}
    ends = {name: (found[0], found[-1]) for name, found in ratios.items()}
    assert ends["vgg"] == pytest.approx((0.5, 4.0))
    assert ends["deep-linear"] == pytest.approx((0.01, 30.0))
