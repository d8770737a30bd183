from dataclasses import replace

import pytest

from xhat.study.claims import CLAIMS
from xhat.study.spec import Member, Network

from ..made import NAN, C, Fate, I, S, judged, primary, shaken


def saturating(
    batch: float, *, small: float = 0.1, xavier: float = 0.2, gradient: float = 1000.0, by: float = 0.0
):
    """Accuracies at each arm's best rate, 1; other rates have a larger loss and a perfect accuracy."""

    def fates(network: Network, member: Member) -> Fate:
        accuracy = {"batch": batch, "layer": 0.3, "none": {"small": small, "xavier": xavier}.get(member.init)}
        if member.lr != 1.0:
            return Fate(final=0.9, accuracy=1.0, gradient=1.0)
        noise = by * (-1) ** member.seed
        return Fate(accuracy=accuracy[network.norm] + noise * (network.norm == "batch"))

    def with_gradients(network: Network, member: Member) -> Fate:
        fate = fates(network, member)
        return replace(fate, gradient=shaken(member) * (gradient if network.norm == "batch" else 1.0))

    return with_gradients


@pytest.mark.parametrize(
    ("fates", "verdict"),
    [
        (saturating(0.8), S),
        (saturating(0.25, gradient=2.0), C),
        (saturating(0.1, gradient=0.01), C),
        (saturating(0.3, by=0.3), I),
        (saturating(0.8, small=0.8), I),  # the better of both plain arms counts; the gradient is better still
    ],
)
def test_deep_saturating(fates, verdict):
    assert judged(CLAIMS["deep-saturating"], fates).verdict == verdict


def test_deep_saturating_holds_bn_against_the_better_plain_arm():
    effects = primary(judged(CLAIMS["deep-saturating"], saturating(0.8, small=0.5, xavier=0.2)))
    accuracy = [effect for name, effect in effects.items() if name.startswith("test accuracy")]
    gradient = [effect for name, effect in effects.items() if name.startswith("gradient")]
    assert [effect.estimate for effect in accuracy] == pytest.approx([30.0, 30.0])
    assert [effect.estimate for effect in gradient] == pytest.approx([1000.0])
    assert {effect.seeds for effect in effects.values()} == {10}
    assert all("20 layers" in name for name in effects)  # the deepest decides


def test_deep_saturating_without_a_gradient_is_undecided_not_wrong():
    def fates(network: Network, member: Member) -> Fate:
        return replace(saturating(0.8)(network, member), gradient=1.0 if network.norm == "batch" else 0.0)

    result = judged(CLAIMS["deep-saturating"], fates)
    assert result.verdict == I


def test_deep_saturating_rules_out_a_rate_at_which_a_seed_diverges():
    def fates(network: Network, member: Member) -> Fate:
        if member.lr == 3.0:  # the least loss, but not for all
            return Fate(final=NAN if member.seed == 3 else 0.01, accuracy=0.0)
        return saturating(0.8)(network, member)

    assert judged(CLAIMS["deep-saturating"], fates).verdict == S


def test_deep_saturating_says_where_a_best_rate_lies_at_the_grids_end():
    def fates(network: Network, member: Member) -> Fate:
        return Fate(final=0.3 + member.lr / 100)  # the lowest rate is best

    notes = [effect.note for effect in primary(judged(CLAIMS["deep-saturating"], fates)).values()]
    assert sum("grid's end: no normalisation, N(0, 0.01²), " in note for note in notes) == 2
