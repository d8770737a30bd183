"""Networks: shapes, the place of normalisation, and arms that start from the same weights."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from xhat.errors import UsageError
from xhat.models import MLP, VGG, DeepLinear, DistributionNoise, initialise_
from xhat.models._activations import ACTIVATIONS
from xhat.models._norms import NORMS, make_norm

Make = Callable[[str], nn.Module]
NETWORKS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "vgg": (lambda norm: VGG(1, 10, width=4, norm=norm), (4, 1, 8, 9)),
    "mlp": (lambda norm: MLP(12, 10, depth=3, width=16, norm=norm), (4, 3, 4)),
    "deep-linear": (lambda norm: DeepLinear(depth=5, width=10, norm=norm), (4, 10)),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("make", "shape"), NETWORKS.values(), ids=NETWORKS)
def test_output_is_samples_by_classes(make: Make, shape: tuple[int, ...], norm: str) -> None:
    model = make(norm)
    out = model(torch.randn(shape))
    assert out.shape == (4, 10)
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{which}": parameter
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
        for which, parameter in layer.named_parameters()
    }


@pytest.mark.parametrize("init", ["own", "he", "xavier", "small"])
@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != "none"])
@pytest.mark.parametrize("make", [make for make, _ in NETWORKS.values()], ids=NETWORKS)
def test_arms_start_from_the_same_weights(make: Make, norm: str, init: str) -> None:
    arms = []
    for kind in ("none", norm):
        torch.manual_seed(5)
        model = make(kind)
        initialise_(model, init)
        arms.append(weights(model))
    plain, normalised = arms
    assert plain.keys() == normalised.keys()
    assert all(torch.equal(plain[name], normalised[name]) for name in plain)


def test_an_mlp_by_hand() -> None:
    # y = V·relu(W x + b) + c without BN
    model = MLP(2, 1, depth=1, width=2, norm="none")
    with torch.no_grad():
        for parameter, values in zip(
            model.parameters(), ([[1.0, 2], [-1, 1]], [0.5, -1], [[2.0, 3]], [1.0]), strict=True
        ):
            parameter.copy_(torch.tensor(values))
    # x = (1, 1): hidden relu(3.5, -1) = (3.5, 0); x = (-1, 2): relu(3.5, 2) = (3.5, 2)
    assert model(torch.tensor([[1.0, 1], [-1, 2]])).flatten().tolist() == [8, 14]


def test_a_deep_linear_network_is_a_product_of_matrices() -> None:
    model = DeepLinear(depth=4, width=3, norm="none")
    product = torch.eye(3)
    for weight in model.parameters():
        product = weight @ product
    x = torch.randn(5, 3)
    torch.testing.assert_close(model(x), x @ product.t())
    assert len(list(model.parameters())) == 4  # no biases


@pytest.mark.parametrize(
    ("model", "norms"), [(VGG(1, 10), 8), (MLP(4, 2, depth=3), 3), (DeepLinear(depth=5), 4)]
)
def test_bn_follows_every_linear_map_but_the_last(model: nn.Module, norms: int) -> None:
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.modules.batchnorm._BatchNorm)
    ]
    assert [isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in layers] == [
        False,
        True,
    ] * norms + [False]


def test_the_norm_stands_before_the_activation() -> None:
    block = MLP(4, 2, depth=1, activation="sigmoid", norm="batch").hidden[0]
    assert [type(layer) for layer in block] == [nn.Linear, nn.BatchNorm1d, nn.Sigmoid]
    block = VGG(1, 10).features[2]
    assert [type(layer) for layer in block] == [nn.MaxPool2d, nn.Conv2d, nn.BatchNorm2d, nn.ReLU]


def test_vgg_has_four_stages() -> None:
    channels = [layer.out_channels for layer in VGG(3, 10, width=2).modules() if isinstance(layer, nn.Conv2d)]
    assert channels == [2, 2, 4, 4, 8, 8, 8, 8]


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (8, 1), (10, 2), (16, 2), (20, 4), (50, 10), (64, 8)]
)
@pytest.mark.parametrize("images", [False, True])
def test_groups_have_at_most_eight_channels(channels: int, groups: int, images: bool) -> None:
    layer = make_norm("group", channels, images=images)
    assert isinstance(layer, nn.GroupNorm)
    assert layer.num_groups == groups


def test_layer_norm_on_images_is_over_all_channels_and_places() -> None:
    x = torch.randn(3, 6, 4, 5) * 3 + 2
    expected = torch.nn.functional.layer_norm(x, x.shape[1:])
    torch.testing.assert_close(make_norm("layer", 6, images=True)(x), expected)


@pytest.mark.parametrize("norm", ["none+noise", "batch+noise"])
def test_noise_comes_behind_the_norm(norm: str) -> None:
    layer = make_norm(norm, 4, images=False)
    assert isinstance(layer, nn.Sequential)
    assert isinstance(layer[0], nn.BatchNorm1d if norm == "batch+noise" else nn.Identity)
    assert isinstance(layer[1], DistributionNoise)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(4, 2, norm="bacth"), "unknown norm 'bacth'. Did you mean batch"),
        (lambda: VGG(1, 2, norm="layer+noise"), "unknown norm 'layer\\+noise'"),
        (lambda: DeepLinear(norm=""), "unknown norm ''"),
        (lambda: MLP(4, 2, activation="rleu"), "Did you mean relu"),
    ],
)
def test_unknown_names(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "expected"), [("relu", 1.0), ("sigmoid", 0.7310586), ("tanh", 0.7615942), ("identity", 1.0)]
)
def test_activations_at_one(name: str, expected: float) -> None:
    assert ACTIVATIONS[name]()(torch.tensor(1.0)).item() == pytest.approx(expected)
