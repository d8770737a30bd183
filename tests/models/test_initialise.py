"""Initial weights have the spread that their papers state."""

import copy
import math

import pytest
import torch
from torch import nn

from xhat.errors import UsageError
from xhat.models import INITIALISATIONS, VGG, initialise_

# Layer, and its fan_in and fan_out; each with 40,000 weights or more.
LAYERS = {
    "linear": (lambda: nn.Linear(400, 100), 400, 100),
    "conv": (lambda: nn.Conv2d(100, 50, 3), 900, 450),
    "conv1d": (lambda: nn.Conv1d(200, 60, 4), 800, 240),
}
STD = {
    "he": lambda fan_in, fan_out: math.sqrt(2 / fan_in),
    "xavier": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
    "small": lambda fan_in, fan_out: 0.01,
}


@pytest.mark.parametrize("scale", [1.0, 0.01, 30.0])
@pytest.mark.parametrize("init", INITIALISATIONS)
@pytest.mark.parametrize(("make", "fan_in", "fan_out"), LAYERS.values(), ids=LAYERS)
def test_weights_are_gaussian_of_the_stated_std(make, fan_in, fan_out, init, scale) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    layer = make()
    initialise_(layer, init, scale=scale)
    expected = scale * STD[init](fan_in, fan_out)
    n = layer.weight.numel()
    # Standard errors: σ/√n of the mean, σ/√(2n) of the std; the kurtosis' is √(24/n), 3 for a Gaussian.
    assert abs(layer.weight.mean()) < 5 * expected / math.sqrt(n)
    assert layer.weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * n))
    kurtosis = (layer.weight / expected).pow(4).mean().item()
    assert kurtosis == pytest.approx(3, abs=5 * math.sqrt(96 / n))
    assert layer.bias.eq(0).all()


def test_own_keeps_the_draw_and_the_biases() -> None:
    layer = nn.Linear(4, 3)
    before = copy.deepcopy(layer.state_dict())
    initialise_(layer, "own")
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    initialise_(layer, "own", scale=4.0)
    assert torch.equal(layer.weight, 4 * before["weight"])
    assert torch.equal(layer.bias, before["bias"])


@pytest.mark.parametrize("init", ["own", *INITIALISATIONS])
def test_a_shared_weight_is_scaled_once(init: str) -> None:
    std = []
    for scale in (1.0, 10.0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30))
        model[1].weight = model[0].weight
        initialise_(model, init, scale=scale)
        std.append(model[0].weight.std().item())
    assert std[1] / std[0] == pytest.approx(10)


@pytest.mark.parametrize("init", ["own", *INITIALISATIONS])
def test_the_output_layer_may_have_a_scale_of_its_own(init: str) -> None:
    drawn = []
    for scales in ({}, {"scale": 10.0}, {"scale": 10.0, "output_scale": 1.0}, {"output_scale": 0.5}):
        torch.manual_seed(0)
        model = VGG(1, 10, width=4)
        initialise_(model, init, **scales)
        drawn.append([m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)])
    usual, scaled, kept, output = drawn
    assert isinstance(model.get_submodule("output"), nn.Linear)
    assert all(torch.equal(10 * w, v) for w, v in zip(usual, scaled, strict=True))
    assert all(torch.equal(w, v) for w, v in zip([*scaled[:-1], usual[-1]], kept, strict=True))
    assert all(torch.equal(w, v) for w, v in zip([*usual[:-1], 0.5 * usual[-1]], output, strict=True))


def test_an_output_scale_without_a_linear_layer() -> None:
    with pytest.raises(UsageError, match=r"output_scale=2 .* Conv2d has none"):
        initialise_(nn.Conv2d(1, 1, 1), "he", output_scale=2.0)


def test_only_linear_layers_and_convolutions_are_drawn() -> None:
    model = VGG(1, 10, width=4)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 7.0)
    initialise_(model, "he")
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.weight.eq(7).all()
            assert layer.bias.eq(7).all()
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.weight.ne(7).all()
            assert layer.bias is not None
            assert layer.bias.eq(0).all()


@pytest.mark.parametrize("bias", [True, False])
def test_the_draw_hangs_on_the_seed_alone(bias: bool) -> None:
    drawn = []
    for _ in range(2):
        layer = nn.Linear(5, 5, bias=bias)
        torch.manual_seed(3)
        initialise_(layer, "xavier")
        drawn.append(layer.weight)
    assert torch.equal(*drawn)
    assert all(weight.requires_grad and weight.grad_fn is None for weight in drawn)


def test_unknown() -> None:
    with pytest.raises(UsageError, match="unknown initialisation 'xavjer'"):
        initialise_(nn.Linear(1, 1), "xavjer")
