import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from xhat.study.claim import Subject
from xhat.study.claims._tuned import EVALUATIONS, RATES, Tuned, standard, tuned
from xhat.study.outcome import Training
from xhat.study.spec import Data, Member, Network, TrainSpec

from ..made import CHANCE, NAN, Fate, Fates, made_run

ENSEMBLE = Subject("MLP", Network("mlp"), Data("digits"), seeds=5, steps=100, batch_size=8)
LARGE = replace(ENSEMBLE, name="VGG", network=Network("vgg"))
SUBJECTS = {"ensemble": ENSEMBLE, "large": LARGE}


def arms(subject: Subject) -> dict[str, Network]:
    return {norm: subject.network.with_norm(norm) for norm in ("none", "batch")}


def done(subject: Subject, fates: Fates, **how) -> tuple[dict[str, Tuned], list[Sequence[TrainSpec]]]:
    """What ``tuned`` returns, and what it asked for round by round."""
    tuning = tuned(subject, arms(subject), **how)
    rounds = [next(tuning)]
    keys: list[str] = []
    while True:
        runs = [made_run(spec, fates) for spec in rounds[-1]]
        keys += [run.key for run in runs]
        try:
            rounds.append(tuning.send(runs))
        except StopIteration as stop:
            found, said = stop.value
            assert list(said) == list(dict.fromkeys(keys))
            return found, rounds


def best_at(none: float, batch: float) -> Fates:
    """The loss grows with the distance from an arm's best rate; accuracy is best elsewhere."""

    def fates(network: Network, member: Member) -> Fate:
        best = {"none": none, "batch": batch}[network.norm]
        distance = abs(math.log(member.lr / best))
        return Fate(final=0.2 + 0.1 * distance, accuracy=0.5 + 0.01 * member.seed + 0.1 * (distance > 0))

    return fates


@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
def test_each_arm_takes_its_own_rate_of_the_least_training_loss(subject):
    found, _ = done(subject, best_at(0.1, 3.0))
    assert {arm: one.rate for arm, one in found.items()} == {"none": 0.1, "batch": 3.0}
    assert {arm: one.at_edge for arm, one in found.items()} == {"none": False, "batch": True}
    for one in found.values():
        assert [outcome.member.seed for outcome in one.outcomes] == [0, 1, 2, 3, 4]
        assert {outcome.member.lr for outcome in one.outcomes} == {one.rate}
        np.testing.assert_allclose(one.accuracy, [50, 51, 52, 53, 54])
        assert tuple(one.tried) == RATES


def test_an_ensemble_runs_all_seeds_at_all_rates_at_once():
    found, rounds = done(ENSEMBLE, best_at(0.3, 0.3))
    assert [len(specs) for specs in rounds] == [2]
    assert {len(spec.members) for spec in rounds[0]} == {5 * len(RATES)}
    assert all(len(tried) == 5 for tried in found["none"].tried.values())


def test_of_a_larger_network_two_seeds_choose_and_the_others_follow():
    found, rounds = done(LARGE, best_at(0.3, 1.0))
    assert [len(specs) for specs in rounds] == [2 * 2 * len(RATES), 2 * 3]
    assert {(s.network.norm, s.members[0].seed, s.members[0].lr) for s in rounds[1]} == {
        (norm, seed, rate) for norm, rate in (("none", 0.3), ("batch", 1.0)) for seed in (2, 3, 4)
    }
    assert all(len(tried) == 2 for tried in found["none"].tried.values())


@pytest.mark.parametrize(("seeds", "choosing"), [(2, 2), (3, 2), (4, 2), (6, 3), (7, 3)])
def test_half_of_a_larger_networks_seeds_choose_and_two_at_least(seeds, choosing):
    found, _ = done(replace(LARGE, seeds=seeds), best_at(0.3, 1.0))
    for one in found.values():
        assert {len(tried) for tried in one.tried.values()} == {choosing}
        assert [outcome.member.seed for outcome in one.rest] == list(range(choosing, seeds))


def test_as_few_seeds_as_choose_need_no_second_round():
    _, rounds = done(replace(LARGE, seeds=2), best_at(0.3, 1.0))
    assert len(rounds) == 1


@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
def test_a_rate_at_which_a_tuning_seed_becomes_infinite_is_out(subject):
    def fates(network: Network, member: Member) -> Fate:
        if member.lr == 1.0:
            return Fate(final=NAN if member.seed == 1 else 0.01)
        return best_at(0.3, 0.3)(network, member)

    assert {one.rate for one in done(subject, fates)[0].values()} == {0.3}


def test_where_all_rates_become_infinite_the_lowest_stands():
    found, _ = done(ENSEMBLE, lambda network, member: Fate(final=NAN))
    assert {one.rate for one in found.values()} == {RATES[0]}
    assert not any(outcome.trains for one in found.values() for outcome in one.outcomes)


def test_rates_training_and_initialisations_can_be_others():
    training = Training(Data("digits"), 30, 4)
    how = {"rates": (0.5, 0.7), "training": training, "inits": {"none": "xavier"}}

    def fates(network: Network, member: Member) -> Fate:
        return Fate(final=CHANCE if member.lr == 0.5 else 0.3)

    found, rounds = done(ENSEMBLE, fates, **how)
    assert {one.rate for one in found.values()} == {0.7}
    assert {spec.steps for spec in rounds[0]} == {30}
    inits = {spec.network.norm: {m.init for m in spec.members} for spec in rounds[0]}
    assert inits == {"none": {"xavier"}, "batch": {"he"}}


@pytest.mark.parametrize("steps", [10, 12, 100])
def test_test_accuracy_is_taken_along_the_way_and_at_the_end(steps):
    (measure,) = standard(replace(ENSEMBLE, steps=steps)).measures
    assert measure.kind == "evaluate"
    assert list(measure.at) == sorted(set(measure.at))
    assert measure.at[0] > 0
    assert measure.at[-1] == steps
    assert len(measure.at) <= EVALUATIONS


def test_claims_that_ask_alike_share_their_runs():
    first, second = (next(tuned(ENSEMBLE, arms(ENSEMBLE))) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
def test_a_rate_at_which_a_seed_does_not_train_comes_after_those_at_which_all_do(subject):
    """At 1.0 the mean loss is the least, but a seed that chooses stays near chance."""

    def fates(network: Network, member: Member) -> Fate:
        if member.lr == 1.0:
            return Fate(final=CHANCE / 1.9 if member.seed == 0 else 0.01)
        return Fate(final=0.8 if member.lr == 0.1 else 1.0)

    found, _ = done(subject, fates)
    assert {one.rate for one in found.values()} == {0.1}


def test_where_seeds_train_at_no_rate_the_least_loss_decides():
    found, _ = done(LARGE, lambda network, member: Fate(final=CHANCE * (0.9 if member.lr == 0.3 else 1.0)))
    assert {one.rate for one in found.values()} == {0.3}
