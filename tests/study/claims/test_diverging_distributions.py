import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from xhat.landscape import record
from xhat.models import MLP
from xhat.study.claims import CLAIMS
from xhat.study.claims._diverging_conditions import ABOVE, BN_ABOVE, CONVERGES, EDGE, watched
from xhat.study.claims._rates import RATES
from xhat.study.result import ClaimResult
from xhat.study.spec import Member, Network
from xhat.study.subjects import mlp

from ..made import CHANCE, NAN, USERS, C, Fate, Fates, I, S, all_train, judged, primary, shaken
from .test_larger_lr import train_up_to


def condition(network: Network, member: Member) -> str:
    """Name the condition that a recorded run belongs to; rates up to 0.4 train without BN, to 3.2 with it."""
    if dict(network.options).get("activation") == "sigmoid":
        return f"{network.norm}, sigmoid"
    return f"{network.norm}, lr {member.lr:g}"


# By condition the drift and the final loss, whose ranks are not connected. The plain sigmoid net is collapsed.
UNRELATED = {
    "none, sigmoid": (1e-4, CHANCE),
    "batch, sigmoid": (0.0055, 0.55),
    "none, lr 0.1": (0.004, 0.7),
    "none, lr 0.4": (0.006, 0.6),
    "none, lr 0.5": (0.005, 0.9),
    "none, lr 0.8": (0.009, 0.4),  # one step above the largest
    "none+noise, lr 0.1": (0.007, 0.8),
    "batch, lr 0.1": (0.003, 0.2),
    "batch, lr 6.4": (0.008, 0.5),
    "batch+noise, lr 0.1": (0.002, 0.3),
}
LOSSES = sorted(loss for _, loss in UNRELATED.values())
RELATED = {name: (0.001 * (1 + LOSSES.index(loss)), loss) for name, (_, loss) in UNRELATED.items()}


def moving(conditions: dict[str, tuple[float, float]], *, period: bool, gone: str = "") -> Fates:
    """Means drift in every condition; in the one above the largest rate they swing too, or wander."""

    def wave(step: int) -> float:
        return 0.01 * (-1) ** step if period else 0.02 * math.sin(step / 10)

    def fates(network: Network, member: Member) -> Fate:
        name = condition(network, member)
        drift, loss = conditions[name]
        if name == gone:
            return Fate(final=NAN, mean=lambda step: NAN if step > 60 else 0.0)
        drift *= shaken(member)
        swings = name == "none, lr 0.8"
        return Fate(final=loss, mean=lambda step: drift * step + swings * wave(step))

    return fates


def diverging(fates: Fates) -> ClaimResult:
    return judged(CLAIMS["diverging-distributions"], fates, unrecorded=train_up_to(0.4, 3.2))


@pytest.mark.parametrize(
    ("conditions", "period", "verdicts", "verdict"),
    [
        (UNRELATED, True, [S, S, S], S),
        (RELATED, False, [C, C, C], C),
        (UNRELATED, False, [S, C, S], I),
        (RELATED, True, [C, S, C], I),
    ],
)
def test_diverging_distributions(conditions, period, verdicts, verdict):
    result = diverging(moving(conditions, period=period))
    effects = primary(result)
    assert [effect.verdict for effect in effects.values()] == verdicts
    assert result.verdict == verdict
    assert {effect.seeds for effect in effects.values()} == {10}
    for asked, words in zip(verdicts[:2], result.found[-4:-2], strict=True):
        assert {S: "? Yes: ", C: "? No: "}[asked] in words
    # the hypothesis is that it does not predict
    assert {S: "monotonically? Hardly: ", C: "monotonically? Yes: "}[verdicts[2]] in result.found[-2]
    assert {S: "inside the margin", C: "outside the margin"}[verdicts[2]] in result.found[-2]


# |ln drift / drift of the converging network|, signed: both still and restless networks have high losses.
BENDS = dict(
    zip(
        [name for name in UNRELATED if name not in ("none, lr 0.1", "none, lr 0.8")],
        (-4.1, 4.0, 3.1, -3.0, -2.1, 2.0, 1.1, -1.0),
        strict=True,
    )
)
BENT = {
    "none, lr 0.1": (0.004, 0.1),
    **{name: (0.004 * math.exp(bend), 0.1 + 0.1 * abs(bend)) for name, bend in BENDS.items()},
    "none, lr 0.8": (0.004 * math.exp(5), 0.7),
}


def test_a_relation_that_is_not_monotonic_is_seen_by_the_distance_from_a_converging_network():
    result = diverging(moving(BENT, period=False))
    *_, related, distance = result.effects
    # by hand: the ranks of the ten drifts and losses differ by 8, 4, 2, 2, 4, 3, 3, 1, 1 and 0
    assert (related.verdict, related.estimate) == (S, pytest.approx(1 - 6 * 124 / 990))
    assert (distance.verdict, distance.estimate, distance.primary) == (C, pytest.approx(1.0), False)
    assert "predict training monotonically? Hardly: " in result.found[-2]
    assert "of “plain, lr 0.1”, up or down, predict it? Yes: the rank correlation of that" in result.found[-1]


def test_a_network_that_does_not_train_is_no_measure_of_distance():
    conditions = {**BENT, "none, lr 0.1": (0.004, CHANCE)}
    distance = diverging(moving(conditions, period=False)).effects[-1]
    assert (distance.seeds, distance.verdict) == (0, I)


def test_diverging_distributions_says_what_was_measured():
    result = diverging(moving(UNRELATED, period=True))
    stabler, period, _ = primary(result).values()
    # the least drift of the others is 0.002 of a standard deviation a step, that of the collapsed 0.0001
    assert stabler.estimate == pytest.approx(20.0, rel=0.1)
    assert period.estimate == pytest.approx(2.0, rel=0.1)
    assert ABOVE in period.name
    assert "“plain sigmoid, lr 0.1”" in result.found[0]
    (words,) = [words for words in result.found if words.startswith("Most seeds of")]
    assert "“plain sigmoid, lr 0.1” do not train: of 10, 0 train, 10 stay at chance, 0 become" in words
    assert "0 become infinite, 0 end elsewhere; the distributions" in words
    assert "drift 40 times less than in “plain, lr 0.1”" in words
    (table, _) = result.tables
    assert {row[0] for row in table.rows} >= {CONVERGES, EDGE, ABOVE}
    assert [row[2] for row in table.rows if "sigmoid" in row[0]] == [10, 0]  # collapsed
    # every percentile goes 0.004 of a standard deviation a step, over the 151 steps before the last 48
    path = table.columns.index("path of the percentiles (std)")
    (plain,) = [row for row in table.rows if row[0] == CONVERGES]
    assert plain[path] == pytest.approx(0.004 * 151, rel=0.02)


@pytest.mark.parametrize("gone", ["none, lr 0.5", "none, lr 0.8"])
def test_diverging_distributions_counts_networks_that_became_infinite(gone):
    result = diverging(moving(UNRELATED, period=True, gone=gone))
    assert any("10 of 100 networks became infinite" in words for words in result.found)
    stabler, period, related = primary(result).values()
    assert (stabler.verdict, related.seeds) == (S, 10)
    assert (period.seeds, period.verdict) == ((0, I) if gone == "none, lr 0.8" else (10, S))


def test_diverging_distributions_with_a_pair_of_seeds_that_disagree_is_undecided():
    def fates(network: Network, member: Member) -> Fate:
        return moving(RELATED if member.seed % 2 else UNRELATED, period=bool(member.seed % 2))(
            network, member
        )

    assert {effect.verdict for effect in primary(diverging(fates)).values()} == {I}


@pytest.mark.parametrize(
    "drift",
    [
        0.0,
        NAN,
    ],
)
def test_diverging_distributions_where_nothing_moves_or_all_is_gone(drift):
    def fates(network: Network, member: Member) -> Fate:
        return Fate(final=CHANCE if drift == 0.0 else NAN, mean=lambda step: drift * step)

    result = diverging(fates)
    # networks that stand still do not oscillate: the one hypothesis that is decided then
    assert result.verdict == (C if drift == 0.0 else I)
    assert bool(result.figures) == (drift == 0.0)


def test_a_network_that_swings_is_said_to():
    def fates(network: Network, member: Member) -> Fate:
        fate = moving(UNRELATED, period=True)(network, member)
        above = condition(network, member) == "none, lr 0.8"
        return replace(fate, final=CHANCE * 1.2) if above else fate

    found = [words for words in diverging(fates).found if f"“{ABOVE}” do not train" in words]
    assert len(found) == 1
    assert found[0].endswith("their means swing with period 2.")


def test_diverging_distributions_on_a_users_network():
    """Rates up to 0.4 train without BN, to 3.2 with it; the search finds them."""
    drifts = {("none", 0.1): 0.004, ("none", 0.5): 1e-4, ("none", 0.8): 0.003, ("none", 5.0): 0.006}

    def fates(network: Network, member: Member) -> Fate:
        drift = drifts.get((network.norm, member.lr), 0.005 * member.lr) * shaken(member)
        swing = 0.01 * ((network.norm, member.lr) == ("none", 0.8))
        return Fate(
            final=CHANCE if drift < 1e-3 and network.norm == "none" else 0.5,
            mean=lambda step: drift * step + swing * (-1) ** step,
        )

    result = judged(CLAIMS["diverging-distributions"], fates, USERS, unrecorded=train_up_to(0.4, 3.2))
    stabler, period, _ = primary(result).values()
    assert (stabler.verdict, stabler.seeds) == (S, 4)
    assert (period.verdict, period.seeds) == (S, 4)
    names = [row[0] for row in result.tables[0].rows]
    assert names == [
        *(f"{arm}, lr {rate}" for arm in ("plain", "BN") for rate in ("0.1", "0.5", "5")),
        EDGE,
        ABOVE,
        BN_ABOVE,
    ]


def test_one_step_above_the_largest_lies_above_it_also_at_the_grids_end():
    rates: dict[str, set[float]] = {}

    def fates(network: Network, member: Member) -> Fate:
        rates.setdefault(network.norm, set()).add(member.lr)
        return all_train(network, member)

    end = RATES[-1]
    judged(CLAIMS["diverging-distributions"], fates, unrecorded=train_up_to(0.4, end))
    assert max(rates["batch"]) == 2 * end
    assert {0.4, 0.8} <= rates["none"]


def test_a_users_search_shares_its_runs_with_larger_lr():
    measurements = [CLAIMS[name].measure(USERS) for name in ("larger-lr", "diverging-distributions")]
    larger, searched = (list(next(measurement)) for measurement in measurements)
    assert searched == larger


@pytest.mark.parametrize(
    "steps",
    [10, 48, 60],
)
def test_few_steps_of_a_users_network_are_enough_for_the_distributions(steps):
    result = judged(
        CLAIMS["diverging-distributions"],
        all_train,
        replace(USERS, steps=steps),
    )
    assert result.verdict in (S, C, I)


def test_the_three_places_are_of_one_block():
    """What leaves the normalisation is, after the activation, what enters the next layer."""
    places = watched(mlp("smoke"))
    model = MLP(6, 3, depth=8, width=3, norm="batch")
    with record(model, every=None, layers=sorted({name for at in places.values() for name, _ in at})) as seen:
        seen.snapshot(torch.randn(27, 6))  # 81 values a layer: each quantile is one of them
    found = {(p.layer, p.side): p for p in seen.positions()}
    _, after, inputs = ([found[place] for place in at] for at in places.values())
    assert len(inputs) == 3
    for normed, entering in zip(after, inputs, strict=True):
        np.testing.assert_allclose(entering.pooled, normed.pooled.clip(0), atol=1e-4)
