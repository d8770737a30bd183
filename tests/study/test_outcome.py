import numpy as np
import pytest

from xhat.study.outcome import Training, outcomes, specs
from xhat.study.spec import Data, Member, Network, Probe, Record

from .made import Fate, made_run

MEMBERS = [Member(seed, lr) for lr in (0.1, 0.5) for seed in (1, 0)]
TRAINING = Training(
    Data(), 20, 8, Probe((0, 5, 10), (0.5, 1.0, 4.0)), Record((0, 5, 10), layers=("a", "b")), gradients=True
)
MLP, VGG = Network("mlp"), Network("vgg")


def fates(network: Network, member: Member) -> Fate:
    return Fate(
        final=member.lr, accuracy=member.seed / 2, rough=1 + member.seed, mean=lambda step: step * member.lr
    )


def test_an_ensemble_is_one_run_seed_by_seed_and_other_networks_a_run_each():
    (one,) = specs(MLP, MEMBERS, TRAINING)
    assert [(m.seed, m.lr) for m in one.members] == [(0, 0.1), (0, 0.5), (1, 0.1), (1, 0.5)]
    many = specs(VGG, MEMBERS, TRAINING)
    assert [spec.members for spec in many] == [(member,) for member in one.members]
    for spec in (one, *many):
        assert (spec.steps, spec.batch_size, spec.probe, spec.record) == (
            20,
            8,
            TRAINING.probe,
            TRAINING.record,
        )
        assert spec.gradients


@pytest.mark.parametrize("network", [MLP, VGG])
def test_an_outcome_is_the_members_part_of_its_run(network):
    wanted = specs(network, MEMBERS, TRAINING)
    found = outcomes(wanted, [made_run(spec, fates) for spec in wanted])
    assert set(found) == {(network, member) for member in MEMBERS}
    for (_, member), outcome in found.items():
        assert outcome.member == member
        assert (outcome.final_loss, outcome.test_accuracy) == (member.lr, member.seed / 2)
        assert outcome.loss.shape == (20,)
        assert outcome.loss[-1] == pytest.approx(member.lr)
        assert outcome.trains is True
        assert outcome.share == pytest.approx(0.25 if network is MLP else 1.0)


def test_what_is_met_along_the_gradient():
    (spec,) = specs(MLP, MEMBERS, TRAINING)
    run = made_run(spec, fates)
    found = outcomes([spec], [run])
    for (_, member), outcome in found.items():
        rough = 1 + member.seed
        low, high = outcome.loss_range
        np.testing.assert_allclose(
            [low, high, outcome.loss_variation], [[1] * 3, [1 + rough] * 3, [rough] * 3]
        )
        np.testing.assert_allclose(outcome.gradient_distance, [[0.5 * rough] * 3, [4 * rough] * 3])
        # ‖g − g'‖ / (η ‖g‖) with η = ratio × lr, distance = rough × ratio, ‖g‖ = 1
        np.testing.assert_allclose(outcome.effective_beta, rough / member.lr)
        assert outcome.probe_step.tolist() == [0, 5, 10]
    run.arrays["probe_weight"][:] = 3.0
    np.testing.assert_allclose(outcome.normalised_beta, 9 * outcome.effective_beta)


def test_a_gradient_of_zero_gives_no_warning():
    (spec,) = specs(MLP, MEMBERS, TRAINING)
    run = made_run(spec, fates)
    run.arrays["probe_gradient"][:] = 0.0
    beta = [outcome.effective_beta for outcome in outcomes([spec], [run]).values()]
    assert np.isinf(beta).all()


def test_positions_are_the_members_own():
    (spec,) = specs(MLP, MEMBERS, TRAINING)
    found = outcomes([spec], [made_run(spec, fates)])
    for (_, member), outcome in found.items():
        positions = outcome.positions()
        assert [(p.layer, p.side) for p in positions] == [(n, s) for n in "ab" for s in ("input", "output")]
        for position in positions:
            assert position.mean.shape == (3, 1, 4)
            assert position.units.shape == (3, 1, 4, 21)
            np.testing.assert_allclose(position.mean[:, 0, 0], np.array([0, 5, 10]) * member.lr)


def test_runs_and_specs_must_match():
    wanted = specs(VGG, MEMBERS, TRAINING)
    with pytest.raises(ValueError, match="zip"):
        outcomes(wanted, [made_run(wanted[0], fates)])
