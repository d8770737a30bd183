import numpy as np
import pytest
import torch

from xhat.study.measures import WeightNorms

from .scenes import alone, broken, member, together

MEASURE = WeightNorms((0,))


@torch.no_grad()
def test_sizes_of_weights_and_gamma():
    model = member(0, depth=1, width=3)
    model.hidden[0][0].weight.fill_(2.0)  # type: ignore[index]
    model.hidden[0][1].weight.copy_(torch.tensor([1.0, -1.0, 4.0]))  # type: ignore[index]
    found = MEASURE.take(alone(model))
    assert found["norm"] == pytest.approx(np.array([[2 * np.sqrt(18)]]))
    assert found["gamma"] == pytest.approx(np.array([[2.0]]))
    assert found["moved"] == pytest.approx(np.array([[np.sqrt((0 + 4 + 9) / 3)]]))


def test_without_gamma_there_is_none():
    for model in (member(0, "none"), member(0, affine=False)):
        found = MEASURE.take(alone(model))
        assert np.isfinite(found["norm"]).all()
        assert np.isnan(found["gamma"]).all()
        assert found["moved"].shape == (1, 2)


def test_an_ensembles_members_are_measured_as_they_are_alone():
    found = MEASURE.take(together(broken(member(0)), member(1)))
    apart = MEASURE.take(alone(member(1)))
    assert np.isnan(found["norm"][0, 0])
    for name, values in apart.items():
        assert found[name][1] == pytest.approx(values[0]), name
