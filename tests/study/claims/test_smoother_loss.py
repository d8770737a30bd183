import math
from dataclasses import replace

import pytest

from xhat.study.claim import Context
from xhat.study.claims import CLAIMS
from xhat.study.spec import Member, Network

from ..made import CHANCE, NAN, USERS, C, Fate, Fates, I, S, judged, primary, shaken


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
    def fates(network: Network, member: Member) -> Fate:
        gone = network.norm == "none" and member.seed == 0 and network.name == "vgg"
        return replace(smooth(2.0)(network, member), **({"rough": NAN} if gone else {}))

    for name, effect in primary(judged(CLAIMS["smoother-loss"], fates)).items():
        overflows = "VGG" in name
        assert (effect.verdict, effect.low == 0) == ((I, True) if overflows else (S, False))
        assert effect.note.startswith("1 of 4 seeds overflow") == overflows
        assert math.isfinite(effect.estimate) != overflows


def fails_at(rates: set[float]) -> Fates:
    """Smoother with BN at all rates; without it two seeds alone train at these."""

    def fates(network: Network, member: Member) -> Fate:
        fails = network.norm == "none" and member.lr in rates and member.seed > 1
        return replace(smooth(2.0)(network, member), **({"final": CHANCE} if fails else {}))

    return fates


@pytest.mark.parametrize(
    ("preset", "failing", "deciding"),
    [
        ("full", set(), {"VGG, lr 0.1", "deep linear net, lr 1e-06"}),
        ("full", {0.1, 1e-6}, {"VGG, lr 0.5", "deep linear net, lr 1e-07"}),
        ("full", {0.1, 0.5, 1e-6, 1e-7}, {"VGG, lr 0.1", "deep linear net, lr 1e-06"}),
        ("quick", {0.1, 1e-6}, {"VGG, lr 0.5", "deep linear net, lr 1e-06"}),
        ("paper", {0.1, 0.5}, {"VGG, lr 0.01", "deep linear net, lr 1e-06"}),
    ],
)
def test_the_first_rate_at_which_three_pairs_train_decides(preset, failing, deciding):
    result = judged(CLAIMS["smoother-loss"], fails_at(failing), Context(preset))
    assert {effect.name.split(", ", 1)[1] for effect in primary(result).values()} == deciding


# --- is it BN's smoothing, or any normalisation's?


def beside(none: float, group: float, *, group_trains: bool = True) -> Fates:
    def fates(network: Network, member: Member) -> Fate:
        rough = {"none": none, "batch": 1.0, "group": group}[network.norm] * shaken(member)
        return Fate(rough=rough, final=0.3 if group_trains or network.norm != "group" else CHANCE)

    return fates


def group_effects(result):
    return [effect for effect in result.effects if effect.unit == "ratio, none / GN"]


def test_group_norm_stands_beside_bn_and_decides_nothing():
    result = judged(CLAIMS["smoother-loss"], beside(2.0, 4.0))
    assert result.verdict == S  # group norm is rougher than no normalisation, and is not asked
    effects = group_effects(result)
    assert [effect.estimate for effect in effects[:3]] == pytest.approx([0.5] * 3)
    assert {effect.verdict for effect in effects[:3]} == {C}
    assert not any(effect.primary for effect in effects)
    assert all("VGG, lr 0.1" in effect.name for effect in effects)
    assert any("times those with batch norm; 0.5, 0.5 and 0.5 times those with" in w for w in result.found)
    drawn = [f for f in result.figures if any(c.arm == "group" for p in f.panels for c in p.curves)]
    assert [figure.id for figure in drawn] == ["smoother-loss-vgg-0.1"]
    assert "group norm, 4 of 4 runs train" in drawn[0].alt


def test_a_group_norm_that_does_not_train_is_compared_with_nothing():
    result = judged(CLAIMS["smoother-loss"], beside(2.0, 1.0, group_trains=False))
    assert result.verdict == S
    assert {effect.seeds for effect in group_effects(result)} == {0}
    assert not any("group norm;" in words or "with group norm" in words for words in result.found)
    assert any("lr 0.1, group norm: 4 of 4 runs do not train" in words for words in result.found)


def test_group_norm_runs_at_one_rate_and_on_no_network_but_the_vgg():
    wanted = next(CLAIMS["smoother-loss"].measure(Context("quick")))
    rates = {(s.network.name, m.lr) for s in wanted if s.network.norm == "group" for m in s.members}
    assert rates == {("vgg", 0.1)}
    assert {s.network.norm for s in next(CLAIMS["smoother-loss"].measure(USERS))} == {"none", "batch"}
