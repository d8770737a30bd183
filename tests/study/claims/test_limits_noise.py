from contextlib import suppress
from dataclasses import replace

import pytest

from xhat.study.claim import Context
from xhat.study.claims import CLAIMS
from xhat.study.claims._drift import Movement
from xhat.study.claims._noise_figures import FLOOR, mean_drift
from xhat.study.outcome import Outcome, Training, specs
from xhat.study.spec import Member, Network, Record, describe
from xhat.study.store import Run
from xhat.study.subjects import mlp, vgg
from xhat.study.train import train

from ..made import CHANCE, NAN, C, Fate, Fates, I, S, judged, made_run, primary, shaken

NOISY = "batch+noise"


def trained(
    noisy: float, *, batch: float = 83.0, none: float = 78.0, drift: float = 10.0, by: float = 0.005
) -> Fates:
    """Test accuracies in per cent, and how many times the plain network's drift that of noisy BN is."""

    def fates(network: Network, member: Member) -> Fate:
        accuracy = {"none": none, "batch": batch, NOISY: noisy}[network.norm] * shaken(member, by) / 100
        pace = 0.001 * shaken(member) * (drift if network.norm == NOISY else 1.0)
        final = 0.3 if member.lr == 0.3 else 0.6  # the best rate
        stale = {"evaluate": lambda measure, step: {"accuracy": accuracy / 2, "test_loss": final}}
        clean = {"recalibrated": lambda measure, step: {"accuracy": accuracy, "test_loss": final}}
        return Fate(
            final,
            accuracy / 2 if network.norm == NOISY else accuracy,
            mean=lambda step: pace * step,
            measured=stale | clean,
        )

    return fates


@pytest.mark.parametrize(
    ("fates", "verdict"),
    [
        (trained(82.0), S),
        (trained(70.0, drift=0.1), C),
        (trained(75.0), I),  # less stable, but worse than the plain network: the parts disagree
        (trained(82.0, drift=1.0), I),
    ],
)
def test_limits_noise(fates, verdict):
    result = judged(CLAIMS["limits-noise"], fates)
    assert result.verdict == verdict
    assert len(primary(result)) == 5


def test_limits_noise_says_points_and_the_ratio_of_drifts():
    result = judged(CLAIMS["limits-noise"], trained(82.0))
    for name, effect in primary(result).items():
        assert effect.seeds == (10 if "MLP" in name else 4)
        expected = {"points, noisy BN − none": 4.0, "points, noisy BN − batch": -1.0}.get(effect.unit, 10.0)
        assert effect.estimate == pytest.approx(expected, rel=0.02)
    # With the statistics of the training noisy BN loses half of its accuracy: outside the verdict.
    stale = [effect for effect in result.effects if "training's running statistics" in effect.name]
    assert [effect.estimate for effect in stale] == pytest.approx([41.0 - 78.0, 41.0 - 83.0] * 2, rel=0.02)
    assert not any(effect.primary for effect in stale)


def test_limits_noise_compares_recalibrated_with_recalibrated():
    """BN with statistics estimated anew is better than with those of its training, as noisy BN is."""

    def fates(network: Network, member: Member) -> Fate:
        fate = trained(83.0, by=0.0)(network, member)
        return replace(fate, accuracy=0.8) if network.norm == "batch" else fate

    result = judged(CLAIMS["limits-noise"], fates)
    alike = [effect for name, effect in primary(result).items() if "against BN" in name]
    assert [effect.estimate for effect in alike] == pytest.approx([0.0, 0.0])


def test_limits_noise_leaves_out_of_noisy_against_plain_who_does_not_train():
    def fates(network: Network, member: Member) -> Fate:
        fate = trained(82.0)(network, member)
        fails = (network.norm, member.seed) == ("none", 2)
        return replace(fate, final=CHANCE, accuracy=0.1) if fails else fate

    effects = judged(CLAIMS["limits-noise"], fates).effects
    for network, seeds in (("VGG", 4), ("MLP", 10)):
        (decides,) = [
            e for e in effects if e.name.startswith("test") and "plain" in e.name and network in e.name
        ]
        (over_all,) = [e for e in effects if "all seeds" in e.name and network in e.name]
        assert (decides.seeds, decides.verdict, over_all.seeds) == (seeds - 1, S, seeds)
        assert "1 seeds left out" in decides.note
        assert not over_all.primary
        assert over_all.estimate > 2 * decides.estimate


def test_noise_alone_makes_a_standing_network_drift_by_the_floor():
    subject = mlp("quick")
    layers = tuple(f"hidden.{place}.0" for place in range(1, 8))
    record = Record(tuple(range(8)), batch=128, layers=layers)
    training = Training(subject.data, 8, 64, record=record)
    member = Member(0, lr=0.0)
    for norm, expected in ((NOISY, FLOOR), ("batch", 0.0)):
        (spec,) = specs(subject.network.with_norm(norm), [member], training)
        found, arrays = train(spec)
        run = Run("", {**found, "spec": describe(spec)}, arrays)
        movement = Movement(Outcome(member, run, 0, 1.0), 1, None)
        assert mean_drift(movement) == pytest.approx(expected, abs=0.04)


def test_limits_noise_with_seeds_that_disagree_is_undecided():
    def fates(network: Network, member: Member) -> Fate:
        return trained(92.0 if member.seed % 2 else 68.0, drift=0.1 if member.seed % 2 else 10.0)(
            network, member
        )

    assert {effect.verdict for effect in primary(judged(CLAIMS["limits-noise"], fates)).values()} == {I}


def test_limits_noise_leaves_out_of_the_drift_who_does_not_train():
    def fates(network: Network, member: Member) -> Fate:
        fate = trained(82.0)(network, member)
        still = replace(fate, final=CHANCE, mean=lambda step: 0.0)
        return still if (network.norm, member.seed) == ("none", 2) else fate

    effects = primary(judged(CLAIMS["limits-noise"], fates))
    (drift,) = [effect for name, effect in effects.items() if "drift" in name]
    assert (drift.seeds, drift.verdict) == (9, S)
    assert "1 seeds left out" in drift.note


@pytest.mark.parametrize("final", [CHANCE, NAN])
def test_limits_noise_where_nothing_trains(final):
    result = judged(CLAIMS["limits-noise"], lambda network, member: Fate(final, 0.1))
    effects = primary(result)
    assert result.verdict == I
    assert {effect.verdict for effect in effects.values()} == {I}
    assert {effect.seeds for effect in effects.values()} == {0}  # all presuppose training


def test_bn_with_and_without_noise_has_its_statistics_estimated_anew():
    measurement = CLAIMS["limits-noise"].measure(Context("quick"))
    wanted = list(next(measurement))
    asked = wanted
    with suppress(StopIteration):
        while True:
            asked = measurement.send([made_run(spec, trained(82.0)) for spec in asked])
            wanted += asked
    for subject in (vgg("quick"), mlp("quick")):
        found = {
            (spec.network.norm, member.seed)
            for spec in wanted
            if spec.network.name == subject.network.name
            and "recalibrated" in {measure.kind for measure in spec.measures}
            for member in spec.members
            if member.lr == 0.3
        }
        assert found == {(norm, seed) for norm in ("batch", NOISY) for seed in range(subject.seeds)}
