import pytest
import torch
from torch import nn

from xhat.data import load
from xhat.errors import ModelError, UsageError
from xhat.models import MLP, VGG, DeepLinear, ResNet
from xhat.study.networks import build
from xhat.study.spec import Member, Network

from .users import NETWORK

DIGITS = load("digits")


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p for p in model.parameters() if p.dim() > 1]


def options(**values) -> tuple:
    return tuple(values.items())


OURS = {
    "mlp": Network("mlp", options=options(depth=3, width=8)),
    "vgg": Network("vgg", options=options(width=4)),
    "resnet": Network("resnet", options=options(width=4)),
    "deep-linear": Network("deep-linear", options=options(depth=4)),
}


def layer_weights(model: nn.Module) -> list[torch.Tensor]:
    """Weights of linear layers and convolutions, also of an ensemble's."""
    return [m.weight for m in model.modules() if hasattr(m, "weight") and "Norm" not in type(m).__name__]


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("mlp", "batch"),
        ("mlp", "layer"),
        ("mlp", "batch+noise"),
        ("mlp", "linf"),
        ("mlp", "ghost8"),
        ("deep-linear", "batch"),
        ("vgg", "batch"),
        ("vgg", "layer"),
        ("vgg", "group"),
        ("resnet", "batch"),
        ("resnet", "l1"),
        ("resnet", "ghost32"),
    ],
)
def test_arms_start_from_the_same_weights(name, norm):
    members = (Member(3, 0.1), Member(4, 0.1)) if OURS[name].is_ensemble else (Member(3, 0.1),)
    plain, other = (layer_weights(build(OURS[name].with_norm(n), members, DIGITS)) for n in ("none", norm))
    assert len(plain) >= 4
    assert all(torch.equal(p, q) for p, q in zip(plain, other, strict=True))


OPTIONS = {
    "mlp": [
        options(bias=0),
        options(affine=0),
        options(bias=0, affine=0, place="post", only=1, dropout=0.2),
    ],
    "vgg": [options(bias=0), options(affine=0)],
    "resnet": [options(bias=0)],
}


@pytest.mark.parametrize("init", ["own", "he", "xavier", "small"])
@pytest.mark.parametrize(("name", "more"), [(name, more) for name in OPTIONS for more in OPTIONS[name]])
def test_options_leave_the_initial_weights_as_they_are(name, more, init):
    usual = OURS[name]
    optioned = Network(name, options=(*usual.options, *more))
    members = (Member(3, 0.1, init),)
    first, second = (layer_weights(build(network, members, DIGITS)) for network in (usual, optioned))
    assert len(first) >= 4
    assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))


@pytest.mark.parametrize("name", OURS)
def test_weights_hang_on_the_seed_alone(name):
    def first(seed: int) -> torch.Tensor:
        torch.rand(seed + 5)
        return layer_weights(build(OURS[name], (Member(seed, 0.1),), DIGITS))[0]

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


def test_a_members_weights_do_not_hang_on_the_others():
    members = tuple(Member(seed, 0.1) for seed in (0, 1, 2))
    together = layer_weights(build(OURS["mlp"], members, DIGITS))
    alone = layer_weights(build(OURS["mlp"], members[1:2], DIGITS))
    assert all(torch.equal(all_[1], one[0]) for all_, one in zip(together, alone, strict=True))


@pytest.mark.parametrize("name", OURS)
def test_the_scale_multiplies_the_initial_weights(name):
    usual, large = (
        layer_weights(build(OURS[name], (Member(0, 0.1, scale=scale),), DIGITS)) for scale in (1.0, 10.0)
    )
    assert all(torch.equal(10 * w, v) for w, v in zip(usual, large, strict=True))


@pytest.mark.parametrize("name", OURS)
def test_the_output_layer_may_keep_its_initial_weights(name):
    usual, kept = (
        layer_weights(build(OURS[name], (member,), DIGITS))
        for member in (Member(0, 0.1), Member(0, 0.1, scale=10.0, output_scale=1.0))
    )
    assert torch.equal(usual[-1], kept[-1])
    assert kept[-1].shape[-2] == 10  # in an ensemble members come first
    assert all(torch.equal(10 * w, v) for w, v in zip(usual[:-1], kept[:-1], strict=True))


@pytest.mark.parametrize(
    ("init", "std"), [("small", 0.01), ("he", (2 / 64) ** 0.5), ("xavier", (2 / 564) ** 0.5)]
)
def test_the_initialisation_is_the_members(init, std):
    network = Network("mlp", options=options(depth=1, width=500))
    first = layer_weights(build(network, (Member(0, 0.1, init),), DIGITS))[0]
    assert first.std().item() == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize(
    ("name", "kind", "data"),
    [
        ("mlp", MLP, DIGITS),
        ("vgg", VGG, DIGITS),
        ("resnet", ResNet, DIGITS),
        ("deep-linear", DeepLinear, None),
    ],
)
def test_networks_fit_their_data(name, kind, data):
    model = build(OURS[name], (Member(0, 0.1),), data)
    assert isinstance(model, kind) or OURS[name].is_ensemble
    x = torch.randn(1, 10, 5) if data is None else DIGITS.train_x[:5]
    out = model(x.flatten(1).T[None] if name == "mlp" else x)
    assert out.shape == ((5, 10) if name in ("vgg", "resnet") else (1, 10, 5))


@pytest.mark.parametrize(("name", "near"), [("mpl", "Did you mean mlp"), ("lstm", "There are: ")])
def test_an_unknown_network(name, near):
    with pytest.raises(UsageError, match=f"unknown network '{name}'. {near}"):
        build(Network(name), (Member(0, 0.1),), DIGITS)


# --- a user's network


def users(write_module, folder, text: str = NETWORK):
    return build(Network(f"{write_module(text)}:make_model"), (Member(0, 0.1, "own"),), DIGITS, folder)


def test_a_users_arms_share_weights_though_the_norm_draws_numbers(write_module, tmp_path):
    name = f"{write_module(NETWORK)}:make_model"
    plain, batch, again = (
        weights(build(Network(name, norm), (Member(0, 0.1, "own"),), DIGITS, tmp_path))
        for norm in ("none", "batch", "batch")
    )
    assert [w.shape for w in plain] == [(16, 64), (10, 16)]
    assert all(torch.equal(p, q) for p, q in zip(plain, batch, strict=True))
    assert all(torch.equal(p, q) for p, q in zip(batch, again, strict=True))


def test_where_shapes_differ_a_users_arms_keep_their_own_weights(write_module, tmp_path):
    text = """
from torch import nn

def make_model(norm):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16 if norm == "none" else 17), nn.Linear(16, 10))
"""
    assert users(write_module, tmp_path, text)[1].weight.shape == (17, 64)


def test_a_users_network_takes_scale_and_initialisation(write_module, tmp_path):
    name = f"{write_module(NETWORK)}:make_model"
    own, scaled, small = (
        weights(build(Network(name), (member,), DIGITS, tmp_path))
        for member in (Member(0, 0.1, "own"), Member(0, 0.1, "own", 3.0), Member(0, 0.1, "small"))
    )
    assert torch.equal(3 * own[0], scaled[0])
    assert small[0].std().item() == pytest.approx(0.01, rel=0.1)


def test_numpy_and_python_draw_by_the_seed_too(write_module, tmp_path):
    text = """
import random
import numpy as np
import torch
from torch import nn

def make_model(norm):
    layer = nn.Linear(64, 10)
    layer.bias.data = torch.tensor([random.random() + np.random.rand() for _ in range(10)])
    return nn.Sequential(nn.Flatten(), layer)
"""
    name = f"{write_module(text)}:make_model"
    first, again, other = (
        build(Network(name), (Member(seed, 0.1, "own"),), DIGITS, tmp_path)[1].bias for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise KeyError('wide')", ["raised KeyError: 'wide'", "at least 'batch' and 'none'"]),
        ("return 3", ["returned int, not a torch.nn.Module"]),
        ("return None", ["returned NoneType, not a torch.nn.Module"]),
        ("return make_model", ["returned function, not a torch.nn.Module"]),
    ],
)
def test_a_factory_that_makes_no_network(write_module, tmp_path, body, words):
    with pytest.raises(ModelError) as caught:
        users(write_module, tmp_path, f"def make_model(norm):\n    {body}\n")
    assert "make_model('batch')" in str(caught.value)
    for word in words:
        assert word in str(caught.value)
