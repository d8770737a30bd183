import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from xhat.study.claims import CLAIMS
from xhat.study.claims._rates import RATES
from xhat.study.claims._spread import interval
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
    assert not [effect for effect in result.effects if effect.name.startswith("rates")]  # 2 pairs: table only


def test_failures_are_at_least_so_many_where_only_the_plain_network_fails_at_the_top():
    for up_to, at_least in (((0.5, 500.0), True), ((0.5, 50.0), False), ((500.0, 500.0), False)):
        effects = judged(CLAIMS["stable-training"], stable(20, 0, up_to=up_to)).effects
        failures = [effect for effect in effects if effect.name.startswith("rates")]
        assert [effect.at_least for effect in failures] == [at_least] * 2
        assert all("MLP" in effect.name for effect in failures)


def test_spikes_at_the_plain_networks_best_rate_are_counted_in_both_arms_on_all_seeds():
    def fates(network: Network, member: Member) -> Fate:
        plain = network.norm == "none"
        final = 0.3 if member.lr == (0.03 if plain else 1.0) else 0.5  # best rates
        return replace(spiking(10 if plain and member.lr == 0.03 else 0), final=final)

    effects = judged(CLAIMS["stable-training"], fates).effects
    beside = [effect for effect in effects if "the plain network's best rate" in effect.name]
    assert [effect.seeds for effect in beside] == [10, 4, 4]
    assert [effect.estimate for effect in beside] == pytest.approx([10.0] * 3)
    assert not any(effect.primary for effect in beside)
    shared = [effect for effect in effects if effect.name.startswith("loss") and effect.primary]
    assert all("only 0% spikes: more than 0 points" in effect.note for effect in shared)
    assert not any("only" in effect.note for effect in beside)


def test_spikes_in_the_second_half_and_by_one_condition_stand_beside():
    def fates(network: Network, member: Member) -> Fate:
        plain = network.norm == "none"
        # A leap early, by both conditions; leaps from a small loss late, by the relative one alone.
        leaps = {40: 1.0, 150: 0.2, 180: 0.2} if plain else {}
        loss = {"loss": lambda step: leaps.get(step, 0.5 if step < 100 else 0.1)}
        return Fate(final=0.3 if member.lr == 0.3 else 0.6, **loss)

    effects = judged(CLAIMS["stable-training"], fates).effects
    found = {effect.name: effect.estimate for effect in effects if "MLP" in effect.name}
    steps = 200
    assert found["loss spikes at rate 0.1, MLP"] == pytest.approx(100 / (steps - WINDOW))
    assert found["loss spikes at rate 0.1, second half only, MLP"] == 0.0
    alone = found["loss spikes at rate 0.1, relative condition alone, MLP"]
    assert alone == pytest.approx(300 / (steps - WINDOW))


def test_the_interval_of_a_ratio_of_standard_deviations():
    draw = np.random.default_rng(0).normal(size=(10, 2))
    over, under = 3 * draw[:, 0], 0.6 * draw[:, 0] + 0.8 * draw[:, 1]
    ratio, low, high = interval(over, under)
    assert ratio == pytest.approx(over.std() / under.std())

    def p(factor: float) -> float:
        """Pitman and Morgan: variances are equal where sum and difference are not correlated."""
        return float(stats.pearsonr(over + factor * under, over - factor * under).pvalue)

    assert [p(low), p(high)] == pytest.approx([0.05, 0.05])
    assert p(math.sqrt(low * high)) > 0.9
    assert interval(over, np.ones(10))[1:] == (0.0, math.inf)
    assert interval(over[:2], under[:2])[1:] == (0.0, math.inf)


def test_ratios_of_spreads_stand_beside():
    def fates(network: Network, member: Member) -> Fate:
        fate = stable(20, 0)(network, member)
        return Fate(final=CHANCE, accuracy=0.1) if (network.norm, member.seed) == ("batch", 1) else fate

    effects = judged(CLAIMS["stable-training"], fates).effects
    for network, seeds in (("MLP", 10), ("VGG", 4)):
        of_all, late = [e for e in effects if e.unit.startswith("ratio") and network in e.name]
        assert (of_all.seeds, late.seeds) == (seeds, seeds - 1)
        assert of_all.estimate < 1  # the seed of BN that does not train lies far off
        assert late.estimate == pytest.approx(4.0, rel=0.2)
        assert "1 seeds left out" in late.note
        assert not of_all.primary
        assert not late.primary


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
