import math

import numpy as np
import pytest
import torch

from xhat.study.claims import CLAIMS
from xhat.study.claims._growth import RELU, growth
from xhat.study.spec import Member, Network

from ..made import CHANCE, C, Fate, Fates, I, S, judged, primary, shaken

CLAIM = CLAIMS["limits-depth"]
DEEPEST, SHALLOWEST = 50, 8


def deep(factor: float, lost: float, *, none: float = 0.0, by: float = 0.002) -> Fates:
    """BN's gradients grow by this factor; each arm loses so much accuracy from the shallowest to the deepest."""

    def fates(network: Network, member: Member) -> Fate:
        options = dict(network.options)
        share = (int(options["depth"]) - SHALLOWEST) / (DEEPEST - SHALLOWEST)
        bn = network.norm == "batch"
        return Fate(
            accuracy=(0.8 - share * (lost if bn else none)) * shaken(member, 0.002),
            growth=factor * shaken(member, by) if bn and options["activation"] == "relu" else 1.0,
        )

    return fates


@pytest.mark.parametrize(
    ("fates", "verdict"),
    [
        (deep(RELU, 0.3), S),
        (deep(1.22, 0.3), S),
        (deep(1.0, 0.0), C),
        (deep(1.3, 0.0), C),
        (deep(RELU, 0.0), I),  # gradients grow and deep networks train: the parts disagree
        (deep(RELU, 0.3, by=0.1), I),
    ],
)
def test_limits_depth(fates, verdict):
    assert judged(CLAIM, fates).verdict == verdict


def test_limits_depth_says_what_it_read():
    grows, lost = primary(judged(CLAIM, deep(1.25, 0.3))).values()
    assert grows.estimate == pytest.approx(1.25 - 1.2112, abs=0.001)
    assert lost.estimate == pytest.approx(30.0, abs=0.2)
    assert (grows.seeds, lost.seeds) == (10, 10)


@pytest.mark.parametrize("none", [0.0, 0.2, 0.4])
def test_limits_depth_takes_what_the_plain_network_loses_off_outside_the_verdict(none):
    result = judged(CLAIM, deep(RELU, 0.3, none=none))
    (lead,) = [effect for effect in result.effects if effect.name.startswith("lead of BN lost")]
    assert lead.estimate == pytest.approx(30.0 - 100 * none, abs=0.3)
    assert not lead.primary
    assert result.verdict == S


def test_limits_depth_says_what_is_lost_without_bn_too():
    both, bn_alone = (judged(CLAIM, deep(RELU, 0.3, none=none, by=0.0)).found for none in (0.2, -0.1))
    assert any(
        words.startswith("From 8 to 50 layers 30.0 points of test accuracy are lost with BN (")
        and words.endswith(
            "(gradients at the start: times 1.211 a layer); without BN 20.0 points are lost too (times 1.000)."
        )
        for words in both
    )
    assert any(
        "changes by -30.0 points with BN" in words and "by +10.0 points" in words for words in bn_alone
    )


def test_limits_depth_where_nothing_trains_still_reads_gradients():
    def fates(network: Network, member: Member) -> Fate:
        return Fate(final=CHANCE, accuracy=0.1, growth=RELU * shaken(member))

    grows, lost = primary(judged(CLAIM, fates)).values()
    assert (grows.verdict, lost.verdict, lost.seeds) == (S, I, 0)


def test_limits_depth_without_gradients_is_undecided():
    result = judged(CLAIM, lambda network, member: Fate(growth=0.0))
    grows, _ = primary(result).values()
    assert (grows.seeds, grows.verdict) == (0, I)


# --- growth


def test_growth_of_a_geometric_sequence():
    assert growth(3 * 1.2 ** -np.arange(20.0)) == pytest.approx(1.2)
    assert growth(3 * 1.2 ** np.arange(20.0)) == pytest.approx(1 / 1.2)


def test_growth_leaves_out_both_ends():
    norms = 1.2 ** -np.arange(20.0)
    norms[:5], norms[-5:] = 1e6, math.nan
    assert growth(norms) == pytest.approx(1.2)


@pytest.mark.parametrize("norms", [np.zeros(20), np.full(20, np.nan), np.ones(1)])
def test_growth_that_cannot_be_read_is_nan(norms):
    assert math.isnan(growth(norms))


def test_the_theorys_factor_follows_from_relu_alone():
    """A wide layer by hand, its samples independent.

    Backward, ReLU lets half of the gradient's square through, and BN divides by what the batch varies by;
    the weights' variance multiplies both and cancels.
    """
    z = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, through = z.relu(), (z > 0).double().mean()
    assert float((through / a.var()).sqrt()) == pytest.approx(RELU, rel=2e-3)
