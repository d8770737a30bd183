import math
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch

from xhat.study.claim import Context
from xhat.study.claims import CLAIMS
from xhat.study.claims._no_bias_figures import NUDGE, count, parting
from xhat.study.claims._tuned import standard
from xhat.study.outcome import Outcome, specs
from xhat.study.spec import Member, Network, TrainSpec
from xhat.study.subjects import mlp, vgg

from ..made import CHANCE, NAN, C, Fate, Fates, I, S, judged, made_run, primary


def bare(network: Network) -> bool:
    return dict(network.options).get("bias") == 0


def apart(batch: float, none: float = 5.0, *, by: float = 0.1) -> Fates:
    """How many points better the networks without biases are, by arm and give or take ``by``."""

    def fates(network: Network, member: Member) -> Fate:
        gain = {"batch": batch, "none": none}[network.norm] + by * math.sin(10 * member.seed + 1)
        final = 0.3 if member.lr == 0.3 else 0.6  # the best rate
        return Fate(final, 0.8 + bare(network) * gain / 100)

    return fates


@pytest.mark.parametrize(
    ("fates", "verdict"),
    [
        (apart(0.0), S),
        (apart(-0.5), S),
        (apart(-3.0), C),
        (apart(3.0), C),  # better is not alike either
        (apart(1.0), I),
        (apart(0.0, by=5.0), I),
    ],
)
def test_no_bias(fates, verdict):
    result = judged(CLAIMS["no-bias"], fates)
    assert result.verdict == verdict
    assert len(primary(result)) == 2


def test_no_bias_says_the_points_and_shows_the_plain_network_beside():
    result = judged(CLAIMS["no-bias"], apart(-0.5))
    for effect in result.effects:
        beside = 0.0 if "nudged" in effect.name else 5.0
        assert effect.estimate == pytest.approx(-0.5 if effect.primary else beside, abs=0.1)
        assert effect.seeds == (10 if "MLP" in effect.name else 4)
        assert (effect.rule, effect.threshold) == ("within", 1.0)


@pytest.mark.parametrize("final", [CHANCE, NAN])
def test_no_bias_compares_nothing_where_neither_trains(final):
    result = judged(CLAIMS["no-bias"], lambda network, member: Fate(final, 0.1))
    assert result.verdict == I
    assert {effect.seeds for effect in primary(result).values()} == {0}


def test_no_bias_counts_seeds_that_train_with_biases_alone():
    def fates(network: Network, member: Member) -> Fate:
        fate = apart(0.0)(network, member)
        return replace(fate, final=NAN, accuracy=0.1) if bare(network) else fate

    effects = primary(judged(CLAIMS["no-bias"], fates)).values()
    assert {effect.verdict for effect in effects} == {C}
    assert [effect.estimate for effect in effects] == pytest.approx([-70.0, -70.0])


def test_the_networks_without_biases_take_rate_seeds_and_steps_of_those_with():
    wanted = asked(Context("quick"))
    for subject in (mlp("quick"), vgg("quick")):
        how = standard(subject)
        found = [spec for spec in wanted if spec.network.name == subject.network.name and bare(spec.network)]
        assert {(spec.steps, spec.batch_size, spec.measures) for spec in found} == {
            (how.steps, how.batch_size, how.measures)
        }
        trained = {(spec.network.norm, m.seed, m.lr, m.init) for spec in found for m in spec.members}
        seeds = range(subject.seeds)
        assert trained == {(norm, seed, 0.3, subject.init) for norm in ("none", "batch") for seed in seeds}


def asked(context: Context) -> list[TrainSpec]:
    measurement = CLAIMS["no-bias"].measure(context)
    wanted = list(next(measurement))
    more = wanted
    with suppress(StopIteration):
        while True:
            more = measurement.send([made_run(spec, apart(0.0)) for spec in more])
            wanted += more
    return wanted


def test_vgg_has_more_seeds_in_full_and_its_rate_is_chosen_with_the_usual_ones():
    def seeds(context: Context, *, tuning: bool = False) -> set[tuple[str, int]]:
        return {
            (spec.network.name, member.seed)
            for spec in asked(context)
            for member in spec.members
            if not tuning or member.lr == 3.0
        }

    usual = {name: range(count) for name, count in (("vgg", vgg("full").seeds), ("mlp", mlp("full").seeds))}
    assert seeds(Context("full")) == {("vgg", s) for s in range(12)} | {("mlp", s) for s in usual["mlp"]}
    assert {seed for name, seed in seeds(Context("full"), tuning=True) if name == "vgg"} < set(usual["vgg"])
    assert seeds(Context("full", seeds=5)) == {(name, s) for name in usual for s in range(5)}
    effects = judged(CLAIMS["no-bias"], apart(0.0), Context("full")).effects
    assert {effect.seeds for effect in effects if "VGG" in effect.name} == {12}


def test_the_control_is_the_network_with_biases_from_weights_changed_in_the_sixth_digit():
    def fates(network: Network, member: Member) -> Fate:
        fate = apart(0.0)(network, member)
        return fate if member.scale == 1.0 else replace(fate, accuracy=fate.accuracy + 0.02)

    effects = judged(CLAIMS["no-bias"], fates).effects
    control = [effect for effect in effects if "nudged" in effect.name]
    assert [effect.estimate for effect in control] == pytest.approx([2.0, 2.0])
    assert not any(effect.primary for effect in control)
    assert np.float32(1 + NUDGE) != np.float32(1.0)


def test_parameters_are_counted_from_the_built_network():
    before = torch.get_rng_state()
    # An MLP loses the biases of its hidden layers, one a unit; the output layer keeps its own.
    subject = mlp("quick")
    network, width = subject.network.with_norm("batch"), int(dict(subject.network.options)["width"])
    assert count(network, subject) - count(network.with_options(bias=0), subject) == 8 * width
    # Two convolutions a stage, of 1, 2, 4 and 4 times the width.
    subject = vgg("quick")
    network, width = subject.network.with_norm("batch"), int(dict(subject.network.options)["width"])
    assert count(network, subject) - count(network.with_options(bias=0), subject) == 22 * width
    assert torch.equal(before, torch.get_rng_state())


def test_losses_part_at_the_step_from_which_they_are_seen_to_differ():
    subject = mlp("smoke")
    member = Member(0, 0.1)
    (spec,) = specs(subject.network, [member], standard(subject))

    def outcome(*loss: float) -> Outcome:
        run = made_run(replace(spec, steps=len(loss)), lambda *_: Fate(loss=lambda step: loss[step]))
        return Outcome(member, run, 0, 1.0)

    usual = outcome(2.0, 1.0, 0.5, 0.4)
    assert parting(usual, outcome(2.0, 1.01, 0.6, 0.4)) == 2.0
    assert math.isnan(parting(usual, usual))
