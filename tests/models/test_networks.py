"""Networks: shapes, the place of normalisation, and arms that start from the same weights."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from xhat.errors import UsageError
from xhat.models import MLP, VGG, DeepLinear, DistributionNoise, GhostBatchNorm, LpNorm, ResNet, initialise_
from xhat.models._activations import ACTIVATIONS
from xhat.models._norms import NORMS, check_norm, make_norm

Make = Callable[[str], nn.Module]
NETWORKS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "vgg": (lambda norm: VGG(1, 10, width=4, norm=norm), (4, 1, 8, 9)),
    "resnet": (lambda norm: ResNet(1, 10, width=4, blocks=2, norm=norm), (4, 1, 8, 9)),
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


def kinds(model: nn.Module) -> list[list[type[nn.Module]]]:
    return [[type(layer) for layer in block] for block in model.hidden]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[nn.Linear, nn.BatchNorm1d, nn.Tanh]] * 3),
        ({"place": "post"}, [[nn.Linear, nn.Tanh, nn.BatchNorm1d]] * 3),
        ({"dropout": 0.5}, [[nn.Linear, nn.BatchNorm1d, nn.Tanh, nn.Dropout]] * 3),
        ({"place": "post", "dropout": 0.5}, [[nn.Linear, nn.Tanh, nn.BatchNorm1d, nn.Dropout]] * 3),
        (
            {"only": 1},
            [[nn.Linear, norm, nn.Tanh] for norm in (nn.Identity, nn.BatchNorm1d, nn.Identity)],
        ),
    ],
)
def test_options_of_an_mlp_order_its_layers(
    options: dict[str, Any], expected: list[list[type[nn.Module]]]
) -> None:
    assert kinds(MLP(4, 2, depth=3, activation="tanh", **options)) == expected


@pytest.mark.parametrize("bias", [True, 1, False, 0])
@pytest.mark.parametrize("affine", [True, 1, False, 0])
def test_bias_and_affine_of_an_mlp(bias: bool, affine: bool) -> None:
    model = MLP(4, 2, depth=2, bias=bias, affine=affine)
    assert all((block[0].bias is not None) == bool(bias) for block in model.hidden)
    assert all((block[1].weight is not None) == bool(affine) for block in model.hidden)
    assert model.output.bias is not None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("model", [VGG, ResNet])
def test_bias_of_convolutions(model: type[nn.Module], bias: bool) -> None:
    made = model(1, 10, width=2, bias=bias)
    assert all((layer.bias is not None) == bias for layer in made.modules() if isinstance(layer, nn.Conv2d))
    assert made.output.bias is not None


def test_dropout_drops_its_share() -> None:
    model = MLP(4, 2, depth=1, width=2000, norm="none", activation="sigmoid", dropout=0.25)
    dropped = model.hidden[0](torch.randn(20, 4)).eq(0).float().mean().item()
    assert dropped == pytest.approx(0.25, abs=0.02)  # 4.5 standard errors
    assert model.eval().hidden[0](torch.randn(20, 4)).ne(0).all()


def test_a_residual_block_by_hand() -> None:
    # Kernels that pass the middle pixel on: relu(F(x) + x) with F(x) = a·relu(b·x), here 3·relu(2·x) + x
    model = ResNet(1, 2, width=1, norm="none", bias=False)
    block = model.blocks[0]
    with torch.no_grad():
        for conv, value in ((block.residual[0], 2.0), (block.residual[3], 3.0)):
            conv.weight.zero_()
            conv.weight[0, 0, 1, 1] = value
    x = torch.tensor([1.0, -2, 0.5, 4]).view(1, 1, 2, 2)
    assert block(x).flatten().tolist() == [7, 0, 3.5, 28]


def test_a_resnet_has_three_stages() -> None:
    model = ResNet(3, 10, width=2, blocks=2)
    convolutions = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    by_stage = [layer for name, layer in convolutions.items() if "shortcut" not in name]
    assert [layer.out_channels for layer in by_stage] == [2] * 5 + [4] * 4 + [8] * 4
    assert [layer.stride[0] for layer in by_stage] == [1] * 5 + [2, 1, 1, 1] * 2
    projections = [layer for name, layer in convolutions.items() if "shortcut" in name]
    assert [(c.in_channels, c.out_channels, c.kernel_size, c.stride) for c in projections] == [
        (2, 4, (1, 1), (2, 2)),
        (4, 8, (1, 1), (2, 2)),
    ]


@pytest.mark.parametrize(
    ("model", "norms"),
    [(VGG(1, 10), 8), (ResNet(1, 10), 9), (MLP(4, 2, depth=3), 3), (DeepLinear(depth=5), 4)],
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


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize(
    ("norm", "kind", "size"), [("l1", LpNorm, 1), ("linf", LpNorm, math.inf), ("ghost24", GhostBatchNorm, 24)]
)
def test_norms_of_our_own(norm: str, kind: type[nn.Module], size: float, images: bool) -> None:
    check_norm(norm)
    layer = make_norm(norm, 5, images=images)
    assert type(layer) is kind
    assert (layer.p if isinstance(layer, LpNorm) else layer.samples) == size


@pytest.mark.parametrize("norm", [norm for norm in NORMS if "noise" not in norm])
@pytest.mark.parametrize("images", [False, True])
def test_norms_without_affine(norm: str, images: bool) -> None:
    layer = make_norm(norm, 4, images=images, affine=False)
    assert not list(layer.parameters())
    x = torch.randn(6, 4, *([3, 3] if images else []))
    torch.testing.assert_close(layer(x), make_norm(norm, 4, images=images)(x))


@pytest.mark.parametrize(
    "norm", ["ghost", "ghost0", "ghost08", "ghost-8", "ghost8 ", "ghost8+noise", "l2", ""]
)
def test_names_that_are_no_norm(norm: str) -> None:
    with pytest.raises(UsageError, match="unknown norm"):
        check_norm(norm)


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
        (lambda: MLP(4, 2, norm="ghots8"), "Did you mean ghost8"),
        (lambda: MLP(4, 2, norm="ghost1"), "chunks of 1 samples"),
        (lambda: MLP(4, 2, place="behind"), "unknown place 'behind'. There are: post, pre"),
        (lambda: MLP(4, 2, depth=3, only=3), "only=3 names none of the 3 hidden layers"),
        (lambda: MLP(4, 2, depth=3, only=-1), "only=-1 names none"),
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
