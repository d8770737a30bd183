import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from xhat.models import MLP
from xhat.study.measures import LayerStep

from .scenes import alone, broken, member, together


def by_hand(model: MLP, layer: int, lr: float, steps: int) -> float:
    """Whole forward passes, and torch's own optimiser on the layer behind."""
    model = copy.deepcopy(model).train()
    scene = alone(model)
    x, y = scene.batch
    optimiser = torch.optim.SGD(model.hidden[layer + 1][0].parameters(), lr=lr)  # type: ignore[index]
    losses = []
    for _ in range(steps + 1):
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x), y)
        losses.append(float(loss.detach()))
        loss.backward()
        optimiser.step()
    return (losses[0] - losses[-1]) / losses[0]


@pytest.mark.parametrize("options", [{}, {"norm": "none"}, {"only": 0}, {"only": 0, "place": "post"}])
def test_the_decrease_is_that_of_an_optimiser_on_the_layer_alone(options):
    model = member(0, depth=3, **options)
    for layer in (0, 1):
        found = LayerStep((0,), (layer,), (0.3,), steps=5).take(alone(model))
        assert found["decrease"] == pytest.approx(np.array([[by_hand(model, layer, 0.3, 5)]]), rel=1e-4)


def test_the_best_rate_is_each_members_own():
    models, rates = [member(seed) for seed in range(2)], (0.1, 1.0, 30.0)
    found = LayerStep((0,), (0,), rates, steps=5).take(together(*models))
    for index, model in enumerate(models):
        each = [by_hand(model, 0, lr, 5) for lr in rates]
        assert found["decrease"][index, 0] == pytest.approx(max(each), rel=1e-3)
        assert found["rate"][index, 0] == rates[int(np.argmax(each))]


def test_an_ensembles_members_and_layers_are_measured_as_they_are_alone():
    measure = LayerStep((0,), (0, 1), (0.1, 0.5))
    found = measure.take(together(*(member(seed, depth=3) for seed in (0, 1))))
    for seed in (0, 1):
        for name, values in measure.take(alone(member(seed, depth=3))).items():
            assert found[name][seed] == pytest.approx(values[0], rel=1e-3), name


def test_a_member_that_is_not_finite_has_no_decrease():
    found = LayerStep((0,), (0,), (0.1,)).take(together(broken(member(0)), member(1)))
    assert np.isnan(found["decrease"][0]).all()
    assert np.isnan(found["rate"][0]).all()
    assert np.isfinite(found["decrease"][1]).all()


def test_weights_come_out_as_they_went_in():
    model = member(0)
    before = {name: values.clone() for name, values in model.named_parameters()}
    LayerStep((0,), (0,), (0.1, 1.0)).take(alone(model))
    assert all(torch.equal(before[name], values) for name, values in model.named_parameters())
