from dataclasses import replace

import pytest

from xhat.study.claims import CLAIMS
from xhat.study.spec import Member, Network

from ..made import CHANCE, NAN, C, Fate, Fates, I, S, judged, primary, shaken


def smooth(factor: float, *, by: float = 0.02) -> Fates:
    """Without BN ``factor`` times as rough as with it."""

    def fates(network: Network, member: Member) -> Fate:
        plain = network.norm == "none"
        return Fate(rough=(factor * shaken(member, by) if plain else 1.0))

    return fates


@pytest.mark.parametrize(
    ("fates", "verdict"),
    [(smooth(2.0), S), (smooth(1.0), C), (smooth(0.3), C), (smooth(1.2), I), (smooth(1.3, by=0.9), I)],
)
def test_smoother_loss(fates, verdict):
    result = judged(CLAIMS["smoother-loss"], fates)
    assert result.verdict == verdict
    assert {effect.verdict for effect in primary(result).values()} == {verdict}


def test_smoother_loss_says_the_ratio_and_its_pairs():
    effects = primary(judged(CLAIMS["smoother-loss"], smooth(2.0)))
    assert len(effects) == 6  # three measures on two networks
    for name, effect in effects.items():
        assert effect.estimate == pytest.approx(2.0, rel=0.02)
        assert effect.seeds == (4 if "VGG" in name else 10)


def test_smoother_loss_leaves_out_pairs_that_do_not_train():
    def fates(network: Network, member: Member) -> Fate:
        fate = smooth(2.0)(network, member)
        # smooth and untrained: it would speak against the claim
        return (
            replace(fate, final=CHANCE, rough=1e-6) if member.seed == 1 and network.norm == "none" else fate
        )

    result = judged(CLAIMS["smoother-loss"], fates)
    assert result.verdict == S
    assert {effect.seeds for effect in primary(result).values()} == {3, 9}
    assert any("1 of 4 runs do not train" in words for words in result.found)
    curves = [curve.name for figure in result.figures for panel in figure.panels for curve in panel.curves]
    assert "no normalisation, does not train (1 seeds)" in curves


@pytest.mark.parametrize("final", [CHANCE, NAN])
def test_smoother_loss_decides_nothing_without_pairs(final):
    def fates(network: Network, member: Member) -> Fate:
        return Fate(final=final if network.norm == "none" else 0.3)

    result = judged(CLAIMS["smoother-loss"], fates)
    assert result.verdict == I
    assert {effect.seeds for effect in primary(result).values()} == {0}
    assert all("0 pairs of runs could be compared" in effect.note for effect in primary(result).values())


def test_a_walk_that_overflows_is_rough_and_not_missing():
    found = CLAIMS["smoother-loss"]

    def fates(network: Network, member: Member) -> Fate:
        return Fate(rough=NAN if network.norm == "none" and member.seed == 0 else 1.0)

    effects = primary(judged(found, fates)).values()
    assert {effect.verdict for effect in effects} == {I}
    assert all(effect.estimate != effect.estimate or effect.estimate > 1 for effect in effects)
