import numpy as np
import pytest
import torch
from scipy import optimize, stats

from xhat.errors import ModelError
from xhat.study.measures import LinearPart
from xhat.study.measures.linear_part import LEVELS

from .scenes import FEATURES, SAMPLES, alone, broken, data, member, together

MEASURE = LinearPart((0,), samples=SAMPLES)
# |f(z) - f(0) - f'(0)z| = 0.05 |f'(0)z|, solved by hand for tanh; sigmoid is tanh(z/2)/2 + 1/2
BOUND = optimize.brentq(lambda z: np.tanh(z) - 0.95 * z, 0.1, 1.0)


def test_the_bounds_are_those_that_the_docstring_says():
    assert pytest.approx(0.40, abs=0.005) == BOUND
    assert pytest.approx(0.80, abs=0.005) == 2 * BOUND


@pytest.mark.parametrize(("activation", "bound"), [("tanh", BOUND), ("sigmoid", 2 * BOUND)])
@torch.no_grad()
def test_the_share_of_values_in_the_linear_part(activation, bound):
    model = member(0, "none", activation=activation, depth=1, width=FEATURES)
    model.hidden[0][0].weight.copy_(torch.eye(FEATURES))  # type: ignore[index]
    model.hidden[0][0].bias.zero_()  # type: ignore[index]
    found = MEASURE.take(alone(model))  # what enters the activation are the data
    values = data().train_x.flatten().double().numpy()
    assert found["share"] == pytest.approx(np.array([[np.mean(np.abs(values) <= bound)]]))
    assert found["quantile"][0, 0] == pytest.approx(np.quantile(values, LEVELS))


def test_normalised_values_lie_there_as_a_normal_distribution_does():
    model = member(0, activation="tanh", affine=False, depth=1, width=200)
    share = MEASURE.take(alone(model))["share"][0, 0]
    assert share == pytest.approx(2 * stats.norm.cdf(BOUND) - 1, abs=0.02)


def test_values_far_from_zero_do_not():
    model = member(0, activation="tanh", depth=1)
    with torch.no_grad():
        model.hidden[0][1].bias.fill_(50.0)  # type: ignore[index]
    assert MEASURE.take(alone(model))["share"] == pytest.approx(0.0)


def test_an_ensembles_members_are_measured_as_they_are_alone():
    found = MEASURE.take(together(*(member(seed, activation="tanh") for seed in (0, 1))))
    for seed in (0, 1):
        for name, values in MEASURE.take(alone(member(seed, activation="tanh"))).items():
            assert found[name][seed] == pytest.approx(values[0], abs=1e-5), name


def test_a_member_that_is_not_finite_has_no_share():
    found = MEASURE.take(together(broken(member(0, activation="tanh")), member(1, activation="tanh")))
    assert np.isnan(found["share"][0]).all()
    assert np.isfinite(found["share"][1]).all()


def test_an_activation_without_a_linear_part_is_refused():
    with pytest.raises(ModelError, match="neither sigmoid nor tanh"):
        MEASURE.take(alone(member(0)))
