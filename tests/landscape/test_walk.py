"""Walks of an ensemble's members at once are the members' own walks."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xhat.landscape._walk import walk
from xhat.models import MLP, Ensemble


def test_members_walk_apart() -> None:
    # L_i = ½ a_i ‖w_i‖²: g = a w, L(w - ηg) = ½ a (1 - ηa)² ‖w‖², ‖g - g'‖ = η a² ‖w‖
    a = torch.tensor([1.0, 3.0], dtype=torch.float64)
    w = torch.tensor([[3.0, 4.0], [0.6, 0.8]], dtype=torch.float64, requires_grad=True)
    steps = torch.tensor([[0.5, 1.0, 2.0], [0.1, 0.2, 0.4]], dtype=torch.float64)
    found = walk([w], lambda: a * w.square().sum(1) / 2, steps, members=2)
    norm = np.array([5.0, 1.0])
    factor, eta = a.numpy(), steps.numpy()
    assert found.weight_norm == pytest.approx(norm)
    assert found.gradient_norm == pytest.approx(factor * norm)
    assert found.start_loss == pytest.approx(factor * norm**2 / 2)
    expected = (factor * norm**2)[:, None] / 2 * (1 - eta * factor[:, None]) ** 2
    assert found.loss == pytest.approx(expected)
    assert found.distance == pytest.approx(eta * (factor**2 * norm)[:, None])


@pytest.mark.parametrize("norm", ["batch", "none", "layer"])
def test_an_ensemble_walks_as_its_members_do(norm: str) -> None:
    torch.manual_seed(0)
    modules = [MLP(5, 4, depth=2, width=6, norm=norm).double() for _ in range(3)]
    ensemble, x = Ensemble(modules), torch.randn(3, 5, 9, dtype=torch.float64)
    steps = torch.tensor([[0.1, 1.0], [0.2, 2.0], [0.01, 0.5]], dtype=torch.float64)

    def losses(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).square().mean((1, 2))

    together = walk(list(ensemble.parameters()), lambda: losses(ensemble, x), steps, members=3)
    for index, module in enumerate(modules):
        alone = walk(
            list(module.parameters()),
            lambda module=module, index=index: module(x[index].t()).square().mean()[None],  # type: ignore[misc]
            steps[index : index + 1],
        )
        for field in ("start_loss", "gradient_norm", "weight_norm", "loss", "distance"):
            assert getattr(together, field)[index] == pytest.approx(getattr(alone, field)[0], rel=1e-9), field


def test_a_member_that_overflows_leaves_the_others_alone() -> None:
    w = torch.tensor([[1.0], [2.0]], requires_grad=True)
    found = walk([w], lambda: w.square().sum(1), torch.tensor([[0.1], [torch.inf]]), members=2)
    assert found.loss[0] == pytest.approx([0.64])
    assert not np.isfinite(found.loss[1]).any()
