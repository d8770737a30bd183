from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from xhat.study.claims import CLAIMS
from xhat.study.claims.gamma_beta_needed import BOUNDS, held, needed
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


@pytest.mark.parametrize("fails", ["with", "without"])
def test_gamma_beta_needed_leaves_out_pairs_in_which_one_does_not_train(fails):
    def fates(network: Network, member: Member) -> Fate:
        fate = helped(5, 30)(network, member)
        failing = network.norm == "batch" and affine(network) == (fails == "with") and member.seed == 3
        return replace(fate, final=CHANCE, accuracy=0.1) if failing else fate

    result = judged(CLAIM, fates)
    assert result.verdict == S
    for effect in primary(result).values():
        assert effect.seeds == 9
        assert effect.estimate == pytest.approx(5.0 if "accuracy" in effect.name else 30.0)
        assert "1 seeds left out in which one of the two does not train" in effect.note
    beside = [effect for effect in result.effects if "all seeds" in effect.name]
    mean = {"without": (9 * 5.0 + 75.0 - 10.0) / 10, "with": (9 * 5.0 + 10.0 - 70.0) / 10}[fails]
    assert [effect.estimate for effect in beside] == pytest.approx([mean] * 4)
    assert not any(effect.primary for effect in beside)
    assert {effect.seeds for effect in beside} == {10}
    name = "batch norm with γ, β" if fails == "with" else "batch norm without γ, β"
    assert all(f"{name} 7" in words and "(9 of 10 seeds train)" in words for words in result.found)


def test_gamma_beta_needed_shows_all_seeds_once_where_all_train():
    assert not any("all seeds" in effect.name for effect in judged(CLAIM, helped(5, 30)).effects)


@pytest.mark.parametrize(("activation", "slope"), [("sigmoid", 0.25), ("tanh", 1.0)])
def test_gamma_beta_needed_says_what_holds_by_construction(activation, slope):
    curve = {"sigmoid": lambda z: 1 / (1 + np.exp(-z)) - 0.5, "tanh": np.tanh}[activation]
    z = np.random.default_rng(0).standard_normal(200_000)

    def share(gamma: float) -> float:
        tangent = slope * gamma * z
        return 100 * float(np.mean(abs(curve(gamma * z) - tangent) <= 0.05 * abs(tangent)))

    assert share(1.0) == pytest.approx(held(activation), abs=0.4)
    assert share(needed(activation)) == pytest.approx(held(activation) - 10, abs=0.4)
    for number in (f"{held(activation):.1f}%", f"{needed(activation):.2f}"):
        assert number in CLAIM.text.does_not_show
    assert "57.6% (sigmoid) and 31.1% (tanh)" in CLAIM.text.does_not_show


@pytest.mark.parametrize("final", [CHANCE, NAN])
def test_gamma_beta_needed_where_nothing_trains(final):
    result = judged(CLAIM, lambda network, member: Fate(final=final, accuracy=0.1))
    assert result.verdict != S
    assert {effect.seeds for name, effect in primary(result).items() if "share" in name} == {0}
    assert all("no seed trains" in words for words in result.found)
