from dataclasses import replace

import numpy as np
import pytest

from xhat.study.claim import Context
from xhat.study.claims import CLAIMS
from xhat.study.claims._decoupling import CAP
from xhat.study.claims._tuned import RATES
from xhat.study.measures.control import WAYS
from xhat.study.measures.perturb import CASES
from xhat.study.spec import Member, Network

from ..made import CHANCE, NAN, C, Fate, Fates, I, S, judged, primary, shaken


def tied(shift: float, steps: float, *, by: float = 0.02, batch: float = 10.0, start: float = 1.0) -> Fates:
    """Without BN moments move ``shift`` times as far, and control takes ``steps`` times as many steps."""

    def fates(network: Network, member: Member) -> Fate:
        plain = network.norm == "none"

        def perturbed(measure, step):
            far = np.full((len(CASES), len(measure.layers), len(measure.sizes)), 0.05)
            far *= np.array(measure.sizes) / 0.1
            if not plain:
                far[CASES.index("running")] *= 4 * shift
                far[CASES.index("affine")] *= 2
            factor = shift * shaken(member, by) if plain else 1.0
            return {"shift": far * factor * (start if step == 0 else 1.0), "alive": np.full_like(far, 0.9)}

        def controlled(measure, step):
            taken = {
                "affine": NAN if plain else batch,
                "layer": 30.0 if plain else NAN,
                "all": batch * steps * shaken(member, by) if plain else CAP + 1,
            }
            found = np.array([min(taken[way], CAP + 1) if taken[way] > 0 else NAN for way in WAYS])
            error = np.exp(-np.arange(CAP + 1) * 4.6 / found[:, None])
            return {"steps": found, "error": error, "rate": np.full(len(WAYS), 0.1)}

        return Fate(0.3 + member.lr / 100, measured={"perturb": perturbed, "control": controlled})

    return fates


@pytest.mark.parametrize(
    ("fates", "verdict"),
    [
        (tied(8.0, 5.0), S),
        (tied(1.0, 1.0), C),
        (tied(0.5, 0.5), C),
        (tied(8.0, 1.0), I),  # the parts disagree
        (tied(2.5, 2.5, by=0.9), I),  # too wide
        (tied(2.0, 2.0), I),  # the threshold itself
    ],
)
def test_decoupling(fates, verdict):
    result = judged(CLAIMS["decoupling"], fates)
    assert result.verdict == verdict
    assert len(primary(result)) == 3


def test_decoupling_says_the_ratios():
    result = judged(CLAIMS["decoupling"], tied(8.0, 5.0, start=3.0))
    for name, effect in primary(result).items():
        assert effect.estimate == pytest.approx(8.0 if name.startswith("shift") else 5.0, rel=0.02)
        assert effect.seeds == (4 if "VGG" in name else 10)
        assert not effect.at_least
    beside = {effect.name + effect.unit: effect for effect in result.effects if not effect.primary}
    (old, *_) = [effect for name, effect in beside.items() if "before the noise" in name]
    assert old.estimate == pytest.approx(0.25, rel=0.02)
    assert [e.estimate for name, e in beside.items() if "own weights" in name] == [pytest.approx(3.0)]
    assert any("by 0.4 standard deviations without" in words.replace("0.40", "0.4") for words in result.found)


def test_decoupling_says_of_each_network_what_is_so_by_construction_and_what_is_left():
    result = judged(CLAIMS["decoupling"], tied(8.0, 5.0, by=0.0))
    for network, words in zip(("MLP", "VGG"), result.found, strict=False):
        assert words.startswith(f"{network}, noise of 10%")
        assert "8 [8, 8] times as far as with BN in training mode" in words
        assert "before the activation this holds by construction" in words
        assert "the advantage is 0.25 [0.25, 0.25]; with noise on γ and β too it is 4 [4, 4]" in words
    assert "γ and β have these moments as coordinates" in result.found[-1]
    controls = [effect for effect in result.effects if effect.name.startswith("steps")]
    assert all("γ and β have these moments as coordinates" in effect.note for effect in controls)


def test_control_that_takes_too_long_is_at_least_so_long():
    result = judged(CLAIMS["decoupling"], tied(8.0, 20.0))
    (control,) = [effect for name, effect in primary(result).items() if name.startswith("steps")]
    assert (control.verdict, control.at_least) == (S, True)
    assert control.estimate == pytest.approx(CAP / 10)
    assert "10 seeds have not reached it after 100 steps" in control.note
    assert any("through all weights: not within 100" in words for words in result.found)


def test_control_that_takes_too_long_in_both_arms_says_nothing():
    result = judged(CLAIMS["decoupling"], tied(8.0, 5.0, batch=300.0))
    (control,) = [effect for name, effect in primary(result).items() if name.startswith("steps")]
    assert (control.verdict, control.seeds) == (I, 0)


def test_control_that_takes_too_long_with_bn_speaks_against_it():
    result = judged(CLAIMS["decoupling"], tied(8.0, 0.1, batch=300.0))
    (control,) = [effect for name, effect in primary(result).items() if name.startswith("steps")]
    assert (control.verdict, control.at_least) == (C, False)


@pytest.mark.parametrize("final", [CHANCE, NAN])
def test_decoupling_compares_only_networks_that_train(final):
    def fates(network: Network, member: Member) -> Fate:
        fate = tied(8.0, 5.0)(network, member)
        return replace(fate, final=final) if network.norm == "none" else fate

    result = judged(CLAIMS["decoupling"], fates)
    assert result.verdict == I
    assert {effect.seeds for effect in primary(result).values()} == {0}
    assert "MLP: no seed trains in both arms." in result.found


def test_the_measures_are_taken_at_each_arms_own_best_rate():
    claim = CLAIMS["decoupling"]
    best = {"none": 0.1, "batch": 1.0}

    def fates(network: Network, member: Member) -> Fate:
        assert member.lr in RATES
        fate = tied(8.0, 5.0)(network, member)
        far = fate.measured["perturb"]
        wrong = member.lr != best[network.norm]

        def perturbed(measure, step):
            assert not wrong
            return far(measure, step)

        return replace(fate, final=0.9 if wrong else 0.3, measured={**fate.measured, "perturb": perturbed})

    assert judged(claim, fates, Context("full")).verdict == S
