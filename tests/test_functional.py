"""The public function: torch's signature, torch's results, and the additions passed on."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from xhat import functional, reference


def test_the_signature_begins_as_torchs() -> None:
    ours = list(inspect.signature(functional.batch_norm).parameters.values())
    theirs = list(inspect.signature(F.batch_norm).parameters.values())
    assert [p.name for p in ours[1:8]] == [p.name for p in theirs[1:]]  # the first is x here, input there
    assert [p.default for p in ours[:8]] == [p.default for p in theirs]
    assert [p.name for p in ours[8:]] == ["activation", "residual", "mask"]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is None for p in ours[8:])


@pytest.mark.parametrize("training", [True, False])
def test_positional_calls_do_what_torchs_do(training: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(6, 3, 4), torch.randn(3), torch.randn(3)
    ours, theirs = ([torch.full((3,), 0.2), torch.full((3,), 1.5)] for _ in range(2))
    y = functional.batch_norm(x, *ours, weight, bias, training, 0.3, 1e-3)
    torch.testing.assert_close(y, F.batch_norm(x, *theirs, weight, bias, training, 0.3, 1e-3))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)])
@pytest.mark.parametrize("training", [True, False])
def test_agrees_with_torchs_layers(layer: nn.BatchNorm1d, training: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 3)
    layer.train(training)
    stats = [None if s is None else s.clone() for s in (layer.running_mean, layer.running_var)]
    y = functional.batch_norm(x, *stats, layer.weight, layer.bias, training)
    torch.testing.assert_close(y, layer(x))
    torch.testing.assert_close(stats, [layer.running_mean, layer.running_var])


def test_activation_residual_and_mask_are_passed_on() -> None:
    torch.manual_seed(0)
    x, residual, mask = torch.randn(6, 3, 4), torch.randn(6, 3, 4), torch.rand(6, 4) > 0.3
    arguments = {"activation": "silu", "residual": residual, "mask": mask}
    y = functional.batch_norm(x, None, None, training=True, **arguments)
    assert torch.equal(y, reference.batch_norm(x, training=True, **arguments))
    expected = F.silu(F.batch_norm(x, None, None, training=True) + residual)
    plain = functional.batch_norm(x, None, None, training=True, activation="silu", residual=residual)
    torch.testing.assert_close(plain, expected)
