import numpy as np
import pytest
import torch
import torch.nn.functional as F

from xhat.models import MLP
from xhat.study.measures import Evaluate, Recalibrated
from xhat.unchanged import unchanged

from .scenes import SAMPLES, alone, broken, data, member, together

MEASURE = Recalibrated((0,), samples=SAMPLES)


@torch.no_grad()
def by_hand(model: MLP) -> tuple[float, float]:
    """Return accuracy and loss with the moments of all samples, written out."""
    x, y = data().train_x, data().train_y
    batch = evaluated = x
    for linear, norm, _ in model.hidden:
        norm = norm[0] if isinstance(norm, torch.nn.Sequential) else norm  # behind it comes noise
        z = batch @ linear.weight.T + linear.bias
        mean, biased, unbiased = z.mean(0), z.var(0, unbiased=False), z.var(0)

        def normalise(values, var, mean=mean, norm=norm):
            return torch.relu(norm.weight * (values - mean) / torch.sqrt(var + norm.eps) + norm.bias)

        batch, evaluated = (
            normalise(z, biased),
            normalise(evaluated @ linear.weight.T + linear.bias, unbiased),
        )
    out = model.output(evaluated)
    return float((out.argmax(1) == y).float().mean()), float(F.cross_entropy(out, y))


@pytest.mark.parametrize("norm", ["batch", "batch+noise"])
def test_the_statistics_are_those_of_the_samples_without_noise(norm):
    model = member(0, norm)
    expected = by_hand(model)
    found = MEASURE.take(alone(model))
    assert (found["accuracy"][0], found["test_loss"][0]) == pytest.approx(expected, rel=1e-5)


def test_statistics_gathered_under_noise_are_not():
    model = member(0, "batch+noise")
    scene = alone(model)
    with unchanged(model):
        stale = Evaluate((0,)).take(scene)
    assert MEASURE.take(scene)["test_loss"][0] != pytest.approx(stale["test_loss"][0], rel=1e-3)


def test_a_plain_network_is_evaluated_as_it_is():
    model = member(0, "none")
    assert MEASURE.take(alone(model)) == Evaluate((0,)).take(alone(model))


@pytest.mark.parametrize("norm", ["batch", "batch+noise"])
def test_an_ensembles_members_are_measured_as_they_are_alone(norm):
    found = MEASURE.take(together(*(member(seed, norm) for seed in (0, 1))))
    for seed in (0, 1):
        for name, values in MEASURE.take(alone(member(seed, norm))).items():
            assert found[name][seed] == pytest.approx(values[0], rel=1e-4), name


def test_a_member_that_is_not_finite_harms_no_other():
    found = MEASURE.take(together(broken(member(0)), member(1)))
    assert np.isnan(found["test_loss"][0])
    assert found["test_loss"][1] == pytest.approx(MEASURE.take(alone(member(1)))["test_loss"][0], rel=1e-4)


def test_the_model_is_put_back():
    model = member(0, "batch+noise")
    scene = alone(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with unchanged(model):
        MEASURE.take(scene)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.hidden[0][1][0].momentum == 0.1
    assert all(module.training for module in model.modules())
