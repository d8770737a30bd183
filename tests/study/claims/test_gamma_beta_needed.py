from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from xhat.study.claims import CLAIMS
from xhat.study.claims.gamma_beta_needed import BOUNDS
from xhat.study.measures.linear_part import LEVELS
from xhat.study.spec import Member, Network

from ..made import CHANCE, NAN, C, Fate, Fates, I, S, judged, primary

CLAIM = CLAIMS["gamma-beta-needed"]


def affine(network: Network) -> bool:
    return network.norm == "batch" and bool(dict(network.options).get("affine", 1))


def helped(points: float, share: float, *, by: float = 0.0, std: float = 2.0) -> Fates:
    """γ and β add ``points`` and take ``share`` off the linear part; rate 1 is best, the others look better."""

    def fates(network: Network, member: Member) -> Fate:
        noise = by * (-1) ** member.seed
        with_ = affine(network)

        def linear(measure: Any, step: int) -> dict[str, Any]:
            held = 0.6 - (share / 100 + noise) * with_ * (step > 0)
            return {
                "share": np.array([held - 0.1, held + 0.1]),
                "quantile": np.tile((std if with_ else 1.0) * stats.norm.ppf(LEVELS), (2, 1)),
            }

        fate = Fate(accuracy=0.7 + (points / 100 + noise) * with_, measured={"linear_part": linear})
        return fate if member.lr == 1.0 else replace(fate, final=0.9, accuracy=1.0)

    return fates


@pytest.mark.parametrize(
    ("fates", "verdict"),
    [
        (helped(5, 30), S),
        (helped(0, 0), C),
        (helped(-3, -20), C),
        (helped(5, 0), I),  # the parts disagree
        (helped(1.5, 12, by=0.1), I),
    ],
)
def test_gamma_beta_needed(fates, verdict):
    result = judged(CLAIM, fates)
    assert result.verdict == verdict
    assert len(primary(result)) == 4
    assert all("5 layers" in name for name in primary(result))
    assert {effect.seeds for effect in primary(result).values()} == {10}


def test_gamma_beta_needed_compares_best_rates():
    effects = primary(judged(CLAIM, helped(5, 30)))
    assert [effect.estimate for effect in effects.values()] == pytest.approx([5.0, 30.0, 5.0, 30.0])
    assert not any(effect.note for effect in effects.values())


def test_gamma_beta_needed_draws_the_share_at_every_distance_from_zero():
    figure, _ = judged(CLAIM, helped(5, 30, std=3.0)).figures
    for panel in figure.panels:
        curves = {curve.arm: curve for curve in panel.curves}
        for arm, std in (("batch", 3.0), ("bare", 1.0)):
            curve = curves[arm]
            known = [100 * (2 * stats.norm.cdf(x / std) - 1) for x in curve.x]
            assert curve.y == pytest.approx(known, abs=2.5)
        assert curves["linear"].x == (BOUNDS[panel.title],) * 2


def test_gamma_beta_needed_leaves_out_of_the_shares_what_does_not_train():
    def fates(network: Network, member: Member) -> Fate:
        fate = helped(5, 30)(network, member)
        fails = member.seed == 3 and network.norm == "batch" and not affine(network)
        return replace(fate, final=CHANCE, accuracy=0.1) if fails else fate

    effects = primary(judged(CLAIM, fates))
    assert {effect.seeds for name, effect in effects.items() if "share" in name} == {9}
    assert {effect.seeds for name, effect in effects.items() if "accuracy" in name} == {10}


@pytest.mark.parametrize("final", [CHANCE, NAN])
def test_gamma_beta_needed_where_nothing_trains(final):
    result = judged(CLAIM, lambda network, member: Fate(final=final, accuracy=0.1))
    assert result.verdict != S
    assert {effect.seeds for name, effect in primary(result).items() if "share" in name} == {0}
    assert all("no seed trains" in words for words in result.found)
