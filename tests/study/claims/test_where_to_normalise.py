from dataclasses import replace

import numpy as np
import pytest

from xhat.study.claim import Context
from xhat.study.claims import CLAIMS
from xhat.study.claims._tuned import RATES
from xhat.study.claims.where_to_normalise import RAW_RATES
from xhat.study.spec import Data, Member, TrainSpec

from ..made import CHANCE, NAN, C, Fate, I, S, made_run, primary, shaken
from .test_faster import climbing

ARMS = ("raw", "none", "batch", "post")


def arm_of(spec: TrainSpec) -> str:
    if spec.data.raw:
        return "raw"
    return "post" if dict(spec.network.options).get("place") == "post" else spec.network.norm


def judged(fates):
    """As ``made.judged``, with fates by arm: raw inputs are another arm of the same network."""
    measurement = CLAIMS["where-to-normalise"].measure(Context("quick"))
    wanted = next(measurement)
    while True:
        runs = [made_run(spec, lambda _, member, spec=spec: fates(arm_of(spec), member)) for spec in wanted]
        try:
            wanted = measurement.send(runs)
        except StopIteration as stop:
            return stop.value


def racing(
    until: dict[str, float], post: float = 0.8, step: float = 2.0, by: float = 0.02, fall: float = 0.1
):
    """Accuracy climbs to 80% at a step by arm; behind BN the loss falls ``step`` times as far."""

    def fates(arm: str, member: Member) -> Fate:
        noise = shaken(member, by)
        top = post if arm == "post" else 0.8
        fate = climbing(until[arm] * noise, top, final=0.3 + (member.lr != 0.3))
        factor = 1.0 if arm == "none" else step * noise

        def stepping(measure, at):
            falls = np.minimum(fall * factor, 1.0) * np.ones(len(measure.layers))
            return {"decrease": falls, "rate": falls}

        return replace(fate, measured={**fate.measured, "layer_step": stepping})

    return fates


FAST = {"raw": 180.0, "none": 120.0, "batch": 40.0, "post": 60.0}
SLOW = {"raw": 50.0, "none": 80.0, "batch": 120.0, "post": 60.0}


@pytest.mark.parametrize(
    ("fates", "verdict"),
    [
        (racing(FAST), S),
        (racing(SLOW, post=0.85, step=1.0), C),
        (racing(SLOW, post=0.85, step=0.5), C),
        (racing(FAST, step=1.0), I),  # the parts disagree
        (racing(FAST, post=0.85), I),
        (racing({**FAST, "raw": 121.0}, by=0.9, step=1.5), I),  # too wide
        (racing(FAST, step=1.2), I),  # the threshold itself
    ],
)
def test_where_to_normalise(fates, verdict):
    result = judged(fates)
    assert result.verdict == verdict
    assert len(primary(result)) == 4


def test_where_to_normalise_says_ratios_and_points():
    result = judged(racing(FAST, post=0.79))
    inputs, hidden, place, step = primary(result).values()
    assert inputs.estimate == pytest.approx(1.5, rel=0.05)
    assert hidden.estimate == pytest.approx(3.0, rel=0.15)  # a climb's end lies between two points
    assert (place.estimate, place.threshold) == (pytest.approx(1.0), -1.0)
    assert step.estimate == pytest.approx(2.0, rel=0.02)
    assert {effect.seeds for effect in result.effects if "VGG" not in effect.name} == {10}
    assert {effect.seeds for effect in result.effects if "VGG" in effect.name} == {4}
    assert not any(effect.at_least for effect in result.effects)


def layer_steps(result):
    """The effects of the next layer behind BN on Z: of the fall, and of ln(L₀/L)."""
    found = [effect for effect in result.effects if "next layer alone" in effect.name]
    return found[0], next(effect for effect in found if effect.name.startswith("ln("))


def test_the_fall_of_the_loss_has_an_end_and_its_logarithm_beside_it_has_none():
    fall, logs = layer_steps(judged(racing(FAST, by=0.0)))
    assert (fall.estimate, fall.primary, fall.note) == (pytest.approx(2.0), True, "")
    assert (logs.primary, logs.threshold) == (False, fall.threshold)
    assert logs.estimate == pytest.approx(np.log(0.8) / np.log(0.9))
    fall, logs = layer_steps(judged(racing(FAST, by=0.0, fall=0.85, step=1.15)))
    assert (fall.verdict, logs.verdict) == (C, S)
    assert logs.estimate == pytest.approx(np.log(1 - 0.85 * 1.15) / np.log(0.15))
    assert "the mean fall is up to 85%" in fall.note
    assert "above 83% a ratio of 1.2 cannot be reached" in fall.note


def test_a_loss_that_falls_to_nothing_counts_as_far_as_float32_can_tell():
    _, logs = layer_steps(judged(racing(FAST, by=0.0, fall=0.5)))
    assert logs.estimate == pytest.approx(23 * np.log(2) / np.log(2))
    assert logs.seeds == 10


def untrained(*arms: str, final: float = CHANCE):
    def fates(arm: str, member: Member) -> Fate:
        fate = racing(FAST)(arm, member)
        return replace(fate, final=final, **climbing_to_nothing(fate)) if arm in arms else fate

    return fates


def climbing_to_nothing(fate: Fate) -> dict:
    measured = {**fate.measured, "evaluate": lambda measure, step: {"accuracy": 0.1}}
    return {"accuracy": 0.1, "measured": measured}


@pytest.mark.parametrize("final", [CHANCE, NAN])
def test_an_arm_that_does_not_train_takes_the_budget_at_least_or_counts_as_twice(final):
    inputs, *_ = primary(judged(untrained("raw", final=final))).values()
    assert (inputs.verdict, inputs.at_least) == (S, True)
    assert inputs.estimate == pytest.approx(200 / (120 * 79 / 80), rel=0.15)
    assert "in 10 seeds one of the two never reaches the target" in inputs.note
    _, hidden, *_ = primary(judged(untrained("batch", final=final))).values()
    assert (hidden.verdict, hidden.at_least) == (C, False)
    assert hidden.estimate == pytest.approx(120 * 79 / 80 / 400, rel=0.15)


def test_where_nothing_trains_nothing_is_compared():
    result = judged(untrained(*ARMS))
    assert result.verdict == I
    assert {effect.seeds for effect in result.effects} == {0}
    assert "One layer alone: no seed trains in every network." in result.found


def test_arms_that_stand_at_the_target_when_first_measured_are_not_compared():
    inputs, hidden, *_ = primary(judged(racing({**FAST, "none": 1.0, "batch": 1.0}))).values()
    assert hidden.seeds == 0
    assert (inputs.seeds, inputs.at_least) == (10, True)


def test_the_next_layers_networks_are_trained_at_the_plain_networks_best_rate():
    claim = CLAIMS["where-to-normalise"].measure(Context("quick", data="digits"))
    wanted = next(claim)
    raw = [spec for spec in wanted if spec.data.raw]
    assert {spec.data for spec in raw} == {Data("digits", 5000, 1000, 2, raw=True)}
    assert {member.lr for spec in raw for member in spec.members} == set(RAW_RATES) > set(RATES)
    for _ in range(2):  # VGG's other seeds come in between
        runs = [made_run(s, lambda _, m, s=s: racing(FAST)(arm_of(s), m)) for s in wanted]
        wanted = claim.send(runs)
    assert {(spec.network.norm, dict(spec.network.options).get("only")) for spec in wanted} == {
        ("none", None),
        *(("batch", layer) for layer in (0, 3, 6)),
    }
    assert len(wanted) == 7
    assert {member.lr for spec in wanted for member in spec.members} == {0.3}
    assert {len(spec.members) for spec in wanted} == {10}
    assert {spec.data for spec in wanted} == {Data("digits", 5000, 1000, 2)}
