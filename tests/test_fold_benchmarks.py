"""The judgement of benchmarks/fold_zoo.py: what follows what, what is wrong, and that it can say so."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.pretrained import svhn_vgg

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load(name):
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


zoo, judge, speed = load("fold_zoo"), load("_follows"), load("fold_speed")
# torch.fx's optimization imports what torch itself has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore")
X = (torch.randn(2, 3, 8, 8, dtype=torch.float64),)


class Branches(nn.Module):
    """One BN follows its only convolution, each other one fails in one way."""

    def __init__(self):
        super().__init__()
        self.good, self.good_bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.read, self.read_bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.twice, self.twice_bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.changed, self.changed_bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.other, self.other_bn = nn.Linear(8, 3), nn.BatchNorm2d(3)
        self.put_out, self.put_out_bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.rows, self.rows_bn = nn.Linear(8, 5), nn.BatchNorm1d(5)

    def forward(self, x):
        y = self.good_bn(self.good(x))
        read = self.read(x)
        y = y + self.read_bn(read) + read
        y = y + self.twice_bn(self.twice(x)) + self.twice(y)
        y = y + self.changed_bn(self.changed(x).relu_())
        other = self.other_bn(self.other(x))  # the BN's channels are not the layer's outputs
        put_out = self.put_out(x)
        rows = self.rows_bn(self.rows(x).flatten(0, 2))
        return y.sum() + other.sum() + self.put_out_bn(put_out).sum() + rows.sum(), put_out


def test_what_directly_follows_its_only_layer():
    found = judge.follows(Branches().double().eval(), *X)
    assert {name: follows.layer for name, follows in found.items()} == {"good_bn": "good", "rows_bn": "rows"}
    assert all(follows.plain for follows in found.values())


def test_a_class_with_a_forward_of_its_own_is_not_plain():
    class Activated(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    model = nn.Sequential(nn.Conv2d(3, 4, 1), Activated(4)).double().eval()
    assert judge.follows(model, *X) == {"1": judge.Follows("0", plain=False)}


def side(fold, model):
    zoo.randomise_(model, X, seed=0)
    others = (torch.randn_like(X[0]),)
    return zoo.side(fold, model, X, others, judge.follows(model, *X))


@pytest.mark.parametrize("fold", [zoo.by_fx, zoo.by_xhat])
def test_a_right_fold_is_counted(fold):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    )
    made = side(fold, model.double().eval())
    assert made["folded"] == 2
    assert made["missed"] == {}
    assert made["difference"] < 1e-12


def test_a_wrong_fold_is_seen():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.conv(self.bn(self.conv(x)))

    assert side(zoo.by_fx, Twice().double().eval())["difference"] > zoo.TOLERANCE
    assert side(zoo.by_xhat, Twice().double().eval())["difference"] == 0


def test_what_is_not_folded_is_missed():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).double().eval()
    made = side(lambda model, inputs: (model, {"1"}, {}), model)
    assert made["missed"] == {"1": "0"}
    assert made["folded"] == 0


def test_a_tool_that_raises_refuses_the_model():
    def raises(model, inputs):
        raise ValueError("no")

    assert side(raises, nn.Sequential(nn.Conv2d(3, 4, 1)).double().eval())["refused"] == "ValueError: no"


def test_randomised_statistics_keep_activations_in_scale():
    torch.manual_seed(0)
    layers = [layer for _ in range(30) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))]
    model = nn.Sequential(*layers).double().eval()
    zoo.randomise_(model, X, seed=0)
    assert 0.1 < float(model(*X).detach().std()) < 10
    assert all(float((m.running_mean != 0).all()) for m in model if isinstance(m, nn.BatchNorm2d))


def test_a_norm_that_outputs_do_not_depend_on_is_told():
    class Dead(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.a(x) + 0 * self.b(x)

    assert zoo.blind(Dead().double().eval(), X) == ["b"]


def test_summary_counts_what_is_wrong_and_leaves_it_out():
    def made(difference, folded):
        return {
            "difference": difference,
            "folded": folded,
            "missed": {},
            "seconds": 1.0,
            "reasons": {"why": 1},
        }

    model = {"norms": 3, "direct": 2, "direct_own_forward": 0}
    found = zoo.summary(
        {
            "right": {**model, "fx": made(0.0, 2), "xhat": made(1e-9, 3)},
            "wrong": {**model, "fx": made(float("nan"), 2), "xhat": {"refused": "no"}},
            "broken": {"failed": "no"},
        }
    )
    assert (found["models"], found["not_run"], found["norms"]) == (2, 1, 6)
    assert found["fx"]["wrong"] == ["wrong"]
    assert found["fx"]["folded"] == 2
    assert found["xhat"]["refused_as_a_whole"] == ["wrong"]
    assert found["xhat"]["missed"] == 2
    assert found["xhat"]["reasons"] == {"why": 1}


def test_sides_that_are_timed_compute_the_same():
    networks = speed.sides(svhn_vgg(), 32)
    x = torch.randn(2, 3, 32, 32)
    assert max(speed.largest_difference(networks, x).values()) < 1e-5
    found = speed.measure(networks, x, rounds=2, seconds=1e-3)
    took = found["milliseconds"]
    assert set(took) == {"before", "fx", "xhat"}
    assert found["ratios"]["xhat"] == [a / b for a, b in zip(took["before"], took["xhat"], strict=True)]
