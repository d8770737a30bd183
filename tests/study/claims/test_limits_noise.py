from dataclasses import replace

import pytest

from xhat.study.claim import Context
from xhat.study.claims import CLAIMS
from xhat.study.spec import Member, Network

from ..made import CHANCE, NAN, C, Fate, Fates, I, S, judged, primary, shaken

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
    # With the statistics of the training half of the accuracy is lost: outside the verdict.
    stale = [effect for effect in result.effects if "gathered under noise" in effect.name]
    assert [effect.estimate for effect in stale] == pytest.approx([41.0 - 78.0] * 2, rel=0.02)
    assert not any(effect.primary for effect in stale)


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
    (drift,) = [effect for name, effect in effects.items() if name.startswith("drift")]
    assert (drift.seeds, drift.verdict) == (9, S)
    assert "1 seeds left out" in drift.note


@pytest.mark.parametrize("final", [CHANCE, NAN])
def test_limits_noise_where_nothing_trains(final):
    result = judged(CLAIMS["limits-noise"], lambda network, member: Fate(final, 0.1))
    effects = primary(result)
    assert result.verdict == I
    assert {effect.verdict for effect in effects.values()} == {I}
    assert sum(effect.seeds == 0 for effect in effects.values()) == 3  # alike and drift presuppose training


def test_only_the_noisy_arm_has_its_statistics_estimated_anew():
    specs = next(CLAIMS["limits-noise"].measure(Context("quick")))
    kinds = {spec.network.norm: {measure.kind for measure in spec.measures} for spec in specs}
    assert kinds == {"none": {"evaluate"}, "batch": {"evaluate"}, NOISY: {"evaluate", "recalibrated"}}
