import math
from dataclasses import replace

import numpy as np
import pytest

from xhat.study.claims import CLAIMS
from xhat.study.claims._rates import RATES
from xhat.study.claims._stability import EXCESS, FACTOR, WINDOW, spikes
from xhat.study.spec import Member, Network

from ..made import CHANCE, NAN, USERS, C, Fate, Fates, I, S, judged, primary


def spiking(every: int) -> Fate:
    """Every so many steps the loss is twice what it else is."""
    return Fate(final=0.5, loss=lambda step: 1.0 if every and step % every == every - 1 else 0.5)


def stable(
    none: int, batch: int, *, up_to: tuple[float, float] = (0.5, 50.0), spread: tuple[float, float] = (4, 1)
) -> Fates:
    """Spikes every so many steps, the largest rates that train, and points between two groups of seeds."""

    def fates(network: Network, member: Member) -> Fate:
        plain = network.norm == "none"
        fate = spiking(none if plain else batch)
        points = spread[0 if plain else 1] * (1 + 0.1 * math.sin(member.seed))
        fate = replace(fate, accuracy=0.8 + 0.01 * points * (-1) ** member.seed)
        if member.lr > up_to[0 if plain else 1]:
            return replace(fate, final=NAN, loss=None)
        return fate if member.lr == 0.3 else replace(fate, final=0.6)

    return fates


@pytest.mark.parametrize(
    ("fates", "verdict"),
    [
        (stable(20, 0), S),
        (stable(0, 20, up_to=(50.0, 0.5), spread=(1, 4)), C),
        (stable(0, 20), I),  # more spikes, but fewer failures and less spread: the parts disagree
        (stable(20, 0, spread=(4, 4)), I),
    ],
)
def test_stable_training(fates, verdict):
    result = judged(CLAIMS["stable-training"], fates)
    assert result.verdict == verdict
    assert len(primary(result)) == 5


def test_stable_training_counts_spikes_failures_and_points():
    effects = primary(judged(CLAIMS["stable-training"], stable(20, 0)))
    for name, effect in effects.items():
        assert effect.seeds == (10 if "MLP" in name else 4), name
        if name.startswith("loss spikes"):
            assert effect.estimate == pytest.approx(100 / 20)
        elif name.startswith("rates"):
            counted = [rate for rate in RATES if rate >= 0.1]
            more = [rate for rate in counted if 0.5 < rate <= 50.0]
            assert effect.estimate == pytest.approx(100 * len(more) / len(counted))
        else:
            assert effect.estimate == pytest.approx(3.0, rel=0.1)


def test_stable_training_leaves_out_spikes_where_an_arm_does_not_train():
    def fates(network: Network, member: Member) -> Fate:
        fate = stable(20, 0)(network, member)
        return Fate(final=CHANCE) if member.seed == 1 and network.norm == "none" else fate

    effects = primary(judged(CLAIMS["stable-training"], fates))
    for name, effect in effects.items():
        if name.startswith("loss spikes"):
            assert effect.seeds == (9 if "MLP" in name else 3)
            assert "1 seeds left out" in effect.note


@pytest.mark.parametrize("final", [CHANCE, NAN])
def test_stable_training_where_nothing_trains(final):
    result = judged(CLAIMS["stable-training"], lambda network, member: Fate(final=final))
    assert result.verdict != S
    for name, effect in primary(result).items():
        # Failures are alike; of the rest nothing is known.
        assert (effect.seeds, effect.verdict) == ((10, C) if name.startswith("rates") else (0, I))


def test_stable_training_with_seeds_that_disagree_is_undecided():
    def fates(network: Network, member: Member) -> Fate:
        fate = stable(20, 0)(network, member)
        return replace(
            fate, loss=spiking(10 if (network.norm == "none") == (member.seed % 2 == 0) else 0).loss
        )

    effects = primary(judged(CLAIMS["stable-training"], fates))
    assert {effect.verdict for name, effect in effects.items() if name.startswith("loss")} == {I}


def test_stable_training_on_a_users_network():
    result = judged(CLAIMS["stable-training"], stable(20, 0), USERS)
    assert result.verdict == S
    assert {effect.seeds for effect in primary(result).values()} == {4}
    (failures,) = [
        effect for effect in result.effects if effect.name.startswith("rates at which a seed fails")
    ]
    assert (failures.primary, failures.seeds) == (False, 2)


def test_spikes():
    loss = np.full(100, 0.4)
    loss[[10, 30, 50, 70]] = [9.0, 0.4 + 1.01 * EXCESS * CHANCE, 0.4 + 0.99 * EXCESS * CHANCE, 3.0]
    # Step 10 has too few steps before it; step 50 stays below the excess.
    assert list(np.flatnonzero(spikes(loss, CHANCE)) + WINDOW) == [30, 70]
    # While the loss is large, it is the factor that counts.
    high = np.full(100, 2.0)
    high[[40, 60]] = [2.0 * FACTOR * 0.99, 2.0 * FACTOR * 1.01]
    assert list(np.flatnonzero(spikes(high, CHANCE)) + WINDOW) == [60]
    assert len(spikes(loss[:WINDOW], CHANCE)) == 0
