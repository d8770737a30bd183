from dataclasses import replace

import pytest

from xhat.study.claims import CLAIMS
from xhat.study.claims._rates import RATES
from xhat.study.spec import Member, Network

from ..made import CHANCE, NAN, USERS, C, Fate, Fates, I, S, judged, primary


def train_up_to(none: float, batch: float, *, other: float = 0.5) -> Fates:
    """Rates from 0.02 to a largest one train."""

    def fates(network: Network, member: Member) -> Fate:
        largest = {"none": none, "batch": batch}.get(network.norm, other)
        return Fate(final=0.3 if 0.02 <= member.lr <= largest * 1.001 else NAN)

    return fates


@pytest.mark.parametrize(
    ("fates", "verdict", "estimate"),
    [
        (train_up_to(0.1, 0.8), S, 8.0),
        (train_up_to(0.1, 0.1), I, 1.0),  # alike on a grid in factors of two
        (train_up_to(0.8, 0.1), C, 1 / 8),
        (train_up_to(0.1, 0.2), I, 2.0),  # the threshold itself
    ],
)
def test_larger_lr(fates, verdict, estimate):
    result = judged(CLAIMS["larger-lr"], fates)
    assert result.verdict == verdict
    assert len(primary(result)) == 2
    for effect in primary(result).values():
        assert (effect.verdict, effect.estimate) == (verdict, pytest.approx(estimate))
        assert not effect.at_least


def test_larger_lr_is_undecided_where_seeds_disagree():
    def fates(network: Network, member: Member) -> Fate:
        high = (network.norm == "batch") == (member.seed % 2 == 0)
        return train_up_to(*((12.8, 12.8) if high else (0.2, 0.2)))(network, member)

    assert judged(CLAIMS["larger-lr"], fates).verdict == I


def test_larger_lr_says_at_least_where_bn_trains_at_the_end_of_the_grid():
    result = judged(CLAIMS["larger-lr"], train_up_to(0.1, RATES[-1]))
    assert result.verdict == S
    assert all(effect.at_least for effect in primary(result).values())
    assert not any(effect.at_least for effect in result.effects if not effect.primary)
    assert all("(the grid's end)" in words for words in result.found)


def test_larger_lr_leaves_out_seeds_without_any_rate_that_trains():
    def fates(network: Network, member: Member) -> Fate:
        fails = network.norm == "none" and member.seed == 0
        return Fate(final=CHANCE) if fails else train_up_to(0.1, 0.8)(network, member)

    result = judged(CLAIMS["larger-lr"], fates)
    assert {effect.seeds for effect in primary(result).values()} == {3, 9}
    assert any("none trains" in row for table in result.tables for row in table.rows)


def test_larger_lr_sees_through_a_rate_that_is_too_small():
    def fates(network: Network, member: Member) -> Fate:
        fate = train_up_to(0.4, 3.2)(network, member)
        return Fate(final=CHANCE) if member.lr < 0.3 else fate

    assert judged(CLAIMS["larger-lr"], fates).verdict == S


def test_larger_lr_on_a_users_network():
    result = judged(CLAIMS["larger-lr"], train_up_to(0.1, 0.8), USERS)
    (effect,) = result.effects
    assert (effect.verdict, effect.seeds, effect.estimate) == (S, 4, pytest.approx(8.0))
    assert "net:make" in effect.name


def test_larger_lr_knows_nothing_where_both_arms_reach_the_grids_end():
    result = judged(CLAIMS["larger-lr"], train_up_to(1000.0, 1000.0, other=1000.0))
    assert result.verdict == I
    assert {effect.seeds for effect in primary(result).values()} == {0}


def test_larger_lr_counts_seeds_of_bn_that_train_at_no_rate():
    def fates(network: Network, member: Member) -> Fate:
        fails = network.norm == "batch" and member.seed % 2 == 0
        return replace(train_up_to(0.1, 3.2)(network, member), **({"final": NAN} if fails else {}))

    result = judged(CLAIMS["larger-lr"], fates)
    assert result.verdict != S
    for effect in primary(result).values():
        assert "train at no rate and count as half the lowest" in effect.note


@pytest.mark.parametrize("other", [0.2, 6.4])
def test_another_normalisation_stands_beside_bn_and_decides_nothing(other):
    result = judged(CLAIMS["larger-lr"], train_up_to(0.1, 0.8, other=other))
    assert result.verdict == S
    beside = {effect.unit: effect for effect in result.effects if not effect.primary}
    assert {unit: effect.name for unit, effect in beside.items()} == {
        "ratio, LN / none": "largest rate that trains, MLP",
        "ratio, GN / none": "largest rate that trains, VGG",
    }
    assert [effect.estimate for effect in beside.values()] == pytest.approx([other / 0.1] * 2)
    assert f"group norm {other:g}" in result.found[1]
    assert "group" in {curve.arm for curve in result.figures[1].panels[0].curves}
