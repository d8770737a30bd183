import math

import numpy as np
import pytest
import torch
from torch import nn

from xhat.models import VGG
from xhat.study.measures import Rescale
from xhat.study.scene import Scene

from .scenes import alone, broken, member, together

FACTORS = Rescale((0,), factors=(0.1, 10.0), spreads=(10.0,))


def exact(model: nn.Module) -> nn.Module:
    """With hardly any ε, in float64, so that the laws hold to rounding."""
    for layer in model.modules():
        if hasattr(layer, "eps"):
            layer.eps = 1e-16  # torch takes no 0
    return model.double()


def double(scene: Scene) -> Scene:
    x, y = scene.batch
    return Scene(exact(scene.model), scene.task, 0, (x.double(), y), scene.lr)


def test_batch_norm_takes_back_any_positive_factor_and_its_gradient_is_one_over_a():
    found = FACTORS.take(double(alone(member(0))))
    assert found["output"].shape == (1, 3)
    assert found["output"] == pytest.approx(0.0, abs=1e-9)
    assert found["gradient"] == pytest.approx(0.0, abs=1e-9)
    assert found["cosine"] == pytest.approx(1.0)


def test_layer_norm_takes_back_one_factor_but_not_one_a_unit():
    found = FACTORS.take(double(alone(member(0, "layer"))))
    assert found["output"][0, :2] == pytest.approx(0.0, abs=1e-9)
    assert found["output"][0, 2] > 0.1


def test_a_plain_relu_network_without_bias_grows_as_a_to_its_depth():
    model = member(0, "none", depth=3, bias=False)
    with torch.no_grad():
        model.output.bias.zero_()
    found = Rescale((0,), factors=(0.1, 10.0)).take(double(alone(model)))
    assert found["output"][0] == pytest.approx([1 - 0.1**3, 10**3 - 1])
    assert found["stale"][0] == pytest.approx(found["output"][0])  # no statistics: modes do not differ


def test_stale_statistics_are_those_before_the_weights_were_scaled():
    scene = alone(member(0))
    x, _ = scene.batch
    found = Rescale((0,), factors=(10.0,)).take(scene)
    again = member(0).eval()
    with torch.no_grad():
        before = again(x)
        for block in again.hidden:
            block[0].weight *= 10  # type: ignore[index]
            block[0].bias *= 10  # type: ignore[index]
        change = float((again(x) - before).norm() / before.norm())
    assert found["stale"][0, 0] == pytest.approx(change, rel=1e-4)
    assert found["stale"][0, 0] > 1


def test_with_epsilon_the_error_grows_as_one_over_a_squared():
    model = member(0, depth=1)
    for block in model.hidden:
        block[1].eps = 1e-8  # type: ignore[index]
    scene = alone(model.double())
    scene = Scene(scene.model, scene.task, 0, (scene.batch[0].double(), scene.batch[1]), scene.lr)
    small, smaller = Rescale((0,), factors=(0.03, 0.01)).take(scene)["output"][0]
    assert smaller / small == pytest.approx(9, rel=0.01)


def test_an_ensembles_members_are_measured_as_they_are_alone():
    together_ = FACTORS.take(together(member(0), member(1)))
    for place in (0, 1):
        apart = FACTORS.take(alone(member(place)))
        for name, values in apart.items():
            assert together_[name][place] == pytest.approx(values[0], rel=1e-3, abs=1e-5), name


def test_a_convolutional_network():
    torch.manual_seed(0)
    x = torch.randn(8, 1, 8, 8)
    scene = alone(member(0))
    task, y = scene.task, torch.arange(8) % 3
    found = FACTORS.take(double(Scene(VGG(1, 3, width=2), task, 0, (x, y), scene.lr)))
    assert found["output"] == pytest.approx(0.0, abs=1e-8)


def test_a_member_that_is_not_finite_is_not_a_number_and_spoils_no_other():
    found = FACTORS.take(together(broken(member(0)), member(1)))
    assert np.isnan(found["output"][0]).all()
    assert np.isfinite(found["output"][1]).all()
    assert all(math.isnan(value) for value in found["gradient"][0])


def test_the_model_comes_out_with_its_weights():
    scene = alone(member(0))
    before = [p.clone() for p in scene.model.parameters()]
    FACTORS.take(scene)
    assert all(torch.equal(a, b) for a, b in zip(before, scene.model.parameters(), strict=True))
