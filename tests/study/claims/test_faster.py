import math

import numpy as np
import pytest

from xhat.study.claims import CLAIMS
from xhat.study.claims._speed import steps_to
from xhat.study.spec import Member, Network

from ..made import CHANCE, NAN, USERS, C, Fate, Fates, I, S, judged, primary, shaken


def climbing(until: float, top: float, *, final: float = 0.3) -> Fate:
    """Accuracy climbs in a straight line to ``top`` at step ``until``, and stays."""
    accuracy = {"evaluate": lambda measure, step: {"accuracy": top * min(1.0, step / until)}}
    return Fate(final, top, measured=accuracy)


def race(factor: float, gain: float, *, by: float = 0.02, none: float = 150.0) -> Fates:
    """Without BN the climb takes ``factor`` times as long and ends ``gain`` points lower."""

    def fates(network: Network, member: Member) -> Fate:
        final = 0.3 if member.lr == 0.3 else 0.6  # the best rate
        if network.norm == "none":
            return climbing(none * shaken(member, by), 0.8, final=final)
        return climbing(none / factor, 0.8 + gain / 100 * shaken(member, by), final=final)

    return fates


@pytest.mark.parametrize(
    ("fates", "verdict"),
    [
        (race(4.0, 3.0), S),
        (race(1.2, -3.0), C),
        (race(4.0, -0.5), I),  # faster, but worse: the parts disagree
        (race(1.93, 3.0), I),  # the threshold itself
        (race(3.0, 3.0, by=0.9), I),
    ],
)
def test_faster(fates, verdict):
    result = judged(CLAIMS["faster"], fates)
    assert result.verdict == verdict
    assert len(primary(result)) == 6


def test_faster_says_the_ratio_of_steps_and_the_points():
    effects = primary(judged(CLAIMS["faster"], race(4.0, 3.0)))
    for name, effect in effects.items():
        assert effect.seeds == (10 if "MLP" in name else 4)
        # With BN the line is steeper by 0.83/0.80 as well; where a climb ends lies between two points.
        expected = 4.0 * 0.83 / 0.80 if name.startswith("steps") else 3.0
        assert effect.estimate == pytest.approx(expected, rel=0.2)


def test_faster_shows_other_normalisations_and_seconds_outside_the_verdict():
    result = judged(CLAIMS["faster"], race(4.0, 3.0))
    beside = [effect for effect in result.effects if not effect.primary]
    assert {"ratio, none / GN", "ratio, none / LN"} <= {effect.unit for effect in beside}
    seconds = [effect for effect in beside if effect.name.startswith("seconds")]
    steps = [effect for effect in result.effects if effect.name.startswith("steps")]
    # A made-up run takes one second whatever its arm.
    assert [e.estimate for e in seconds] == pytest.approx([e.estimate for e in steps])


def test_a_network_that_never_reaches_the_target_counts_as_twice_the_budget():
    effects = judged(CLAIMS["faster"], race(4.0, -3.0)).effects
    (steps,) = [e for e in effects if e.primary and e.name.startswith("steps") and "MLP" in e.name]
    assert steps.verdict == C
    assert steps.estimate == pytest.approx(150 * (79 / 80) / 400, rel=0.02)
    assert "10 seeds of batch norm never reach the target" in steps.note


def test_a_network_that_is_there_when_first_measured_is_at_least_so_fast():
    effects = primary(judged(CLAIMS["faster"], race(1000.0, 3.0)))
    assert all(effect.at_least == name.startswith("steps") for name, effect in effects.items())
    (steps,) = [effect for name, effect in effects.items() if name.startswith("steps") and "VGG" in name]
    assert steps.estimate == pytest.approx(150 * (79 / 80) / 8, rel=0.2)


@pytest.mark.parametrize("final", [CHANCE, NAN])
def test_a_plain_network_that_does_not_train_sets_no_target(final):
    def fates(network: Network, member: Member) -> Fate:
        return climbing(100.0, 0.1, final=final) if network.norm == "none" else climbing(50.0, 0.8)

    result = judged(CLAIMS["faster"], fates)
    for name, effect in primary(result).items():
        assert (effect.seeds, effect.verdict) == (0, I)
        if name.startswith("best"):
            assert f"{10 if 'MLP' in name else 4} seeds left out" in effect.note
    over_all = [effect for effect in result.effects if "all seeds" in effect.name and "BN" in effect.unit]
    assert [effect.estimate for effect in over_all] == pytest.approx([70.0] * 3)
    assert not any(effect.primary for effect in over_all)


def test_best_accuracy_leaves_out_a_pair_in_which_bn_does_not_train():
    def fates(network: Network, member: Member) -> Fate:
        fails = network.norm == "batch" and member.seed == 1
        return climbing(50.0, 0.1, final=CHANCE) if fails else race(4.0, 3.0)(network, member)

    effects = judged(CLAIMS["faster"], fates).effects
    decides, over_all = [
        e for e in effects if e.name.startswith("best") and "BN" in e.unit and "MLP" in e.name
    ]
    assert (decides.seeds, decides.verdict) == (9, S)
    assert decides.estimate == pytest.approx(3.0, rel=0.1)
    assert (over_all.seeds, over_all.estimate) == (10, pytest.approx((9 * 3 - 70) / 10, abs=0.1))


def test_seconds_are_those_of_training_and_of_an_ensemble_one_timing():
    effects = judged(CLAIMS["faster"], race(4.0, 3.0)).effects
    notes = {e.name: e.note for e in effects if e.name.startswith("seconds")}
    assert {name: "one timing an arm" in note for name, note in notes.items()} == {
        name: "MLP" in name for name in notes
    }


def test_faster_on_a_users_network():
    result = judged(CLAIMS["faster"], race(4.0, 3.0), USERS)
    assert (result.verdict, len(result.effects)) == (S, 3)


def test_steps_to_a_target():
    at, accuracy = (10, 20, 40, 80), np.array([20.0, 60.0, 50.0, 70.0])
    assert steps_to(40.0, at, accuracy) == 15.0
    assert steps_to(60.0, at, accuracy) == 20.0
    assert steps_to(65.0, at, accuracy) == 70.0
    assert steps_to(20.0, at, accuracy) == 10.0
    assert steps_to(71.0, at, accuracy) == math.inf
    assert steps_to(40.0, at, np.full(4, np.nan)) == math.inf
