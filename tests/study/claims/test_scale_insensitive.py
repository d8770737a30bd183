import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from xhat.study.claims import CLAIMS
from xhat.study.claims._weight_decay import DECAYS, RATES
from xhat.study.spec import Member, Network

from ..made import CHANCE, NAN, C, Fate, Fates, I, S, judged, primary, shaken

CLAIM = CLAIMS["scale-insensitive"]


def changing(one: float, unit: float, *, plain: float = 1000.0, by: float = 0.0, slope: float = 1.0) -> Fates:
    """Shares by which BN's output changes for one factor and for the units', and by which the plain one's does."""

    def fates(network: Network, member: Member) -> Fate:
        def rescaled(measure: Any, step: int) -> dict[str, Any]:
            shaking = shaken(member) + by * (-1) ** member.seed
            cases = np.array([one * shaking] * len(measure.factors) + [unit * shaking] * len(measure.spreads))
            if network.norm != "batch":
                cases = np.full_like(cases, plain)
            return {"output": cases, "stale": 50 * cases, "gradient": -cases / 2, "cosine": 1 - cases}

        def weighed(measure: Any, step: int) -> dict[str, Any]:
            norm = (member.lr / member.decay) ** (slope / 4) if member.decay else 9.0
            layers = np.ones(3)
            return {"norm": norm * layers, "gamma": layers, "moved": 0.2 * layers}

        return Fate(measured={"rescale": rescaled, "weight_norms": weighed})

    return fates


@pytest.mark.parametrize(
    ("fates", "verdict"),
    [
        (changing(0.001, 0.002), S),
        (changing(0.1, 0.05), C),
        (changing(0.001, 0.05), I),  # the parts disagree
        (changing(0.01, 0.01, by=0.5), I),
    ],
)
def test_scale_insensitive(fates, verdict):
    result = judged(CLAIM, fates)
    assert result.verdict == verdict
    assert len(primary(result)) == 4
    for name, effect in primary(result).items():
        assert (effect.rule, effect.threshold, effect.seeds) == ("within", 1.0, 4 if "VGG" in name else 10)


def test_scale_insensitive_says_what_changed_in_per_cent():
    result = judged(CLAIM, changing(0.001, 0.002))
    one, unit = list(primary(result).values())[:2]
    assert one.estimate == pytest.approx(0.1, rel=0.05)
    assert unit.estimate == pytest.approx(0.2, rel=0.05)
    beside = {effect.name: effect.estimate for effect in result.effects if not effect.primary}
    assert beside["gradient times the factor, against before, MLP"] == pytest.approx(-0.1, rel=0.05)
    assert beside["change of the output at factor 10, MLP"] == pytest.approx(1e6, rel=0.05)
    assert beside["root mean square of γ − 1 after training, VGG"] == pytest.approx(20.0)


def test_scale_insensitive_leaves_out_seeds_that_do_not_train():
    def fates(network: Network, member: Member) -> Fate:
        fate = changing(0.001, 0.002)(network, member)
        return replace(fate, final=CHANCE) if member.seed == 1 else fate

    result = judged(CLAIM, fates)
    assert {effect.seeds for effect in primary(result).values()} == {3, 9}
    assert all("1 seeds left out" in effect.note for effect in primary(result).values())


@pytest.mark.parametrize("slope", [1.0, 0.5])
def test_scale_insensitive_finds_the_slope_under_decay(slope):
    result = judged(CLAIM, changing(0.001, 0.002, slope=slope))
    (effect,) = (effect for effect in result.effects if "slope" in effect.name)
    assert not effect.primary
    assert effect.estimate == pytest.approx(slope - 1, abs=1e-9)
    assert effect.verdict == (S if slope == 1.0 else C)
    assert f"{slope:.2f}" in result.found[-1]


def test_scale_insensitive_leaves_out_seeds_that_decay_makes_infinite():
    def fates(network: Network, member: Member) -> Fate:
        fate = changing(0.001, 0.002)(network, member)
        return replace(fate, final=NAN) if (member.decay, member.seed) == (DECAYS[0], 2) else fate

    result = judged(CLAIM, fates)
    (effect,) = (effect for effect in result.effects if "slope" in effect.name)
    assert effect.seeds == 9
    table = next(table for table in result.tables if "decay" in table.columns)
    assert len(table.rows) == len(RATES) * (1 + len(DECAYS))
    assert [row[2] for row in table.rows if row[1] == DECAYS[0]] == ["9 of 10"] * len(RATES)


@pytest.mark.parametrize("final", [CHANCE, NAN])
def test_scale_insensitive_decides_nothing_where_nothing_trains(final):
    result = judged(CLAIM, lambda network, member: Fate(final=final))
    assert result.verdict == I
    assert {effect.seeds for effect in primary(result).values()} == {0}
    assert "no seed with batch norm trains" in result.found[0]
    assert math.isnan(primary(result).popitem()[1].estimate)
