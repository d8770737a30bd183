import pytest
import torch
from torch import Tensor, nn

from xhat.study.networks import build
from xhat.study.scene import Scene, floats, normalising, weighted
from xhat.study.spec import Data, Member, Network
from xhat.study.tasks import Classification, EnsembleClassification, LinearRegression, Task
from xhat.study.train import load_data

DATA = load_data(Data("digits", 60, 40), None)
MEMBERS = (Member(0, 0.1), Member(0, 0.2), Member(1, 0.1), Member(1, 0.2))
ONE = (Member(0, 0.1),)


def scene(network: Network, members: tuple[Member, ...] = ONE) -> Scene:
    seeds = tuple(member.seed for member in members)
    task: Task
    if network.name == "deep-linear":
        task = LinearRegression(seeds)
    elif network.is_ensemble:
        task = EnsembleClassification(DATA, seeds, 20)
    else:
        task = Classification(DATA, seeds[0], 20)
    model = build(network, members, DATA).train()
    return Scene(model, task, 3, task.batch(0), torch.tensor([member.lr for member in members]))


def network(name: str, norm: str = "batch", **options) -> Network:
    return Network(name, norm, tuple(options.items()))


VGG = network("vgg", width=4)
MLP = network("mlp", depth=3, width=8)
LINEAR = network("deep-linear", depth=4)


@pytest.mark.parametrize(
    ("wanted", "members", "blocks"), [(VGG, ONE, 8), (MLP, MEMBERS, 3), (LINEAR, MEMBERS, 3)]
)
def test_blocks_and_their_layers(wanted, members, blocks):
    found = scene(wanted, members)
    assert found.members == len(members)
    assert len(found.blocks) == blocks
    for block in found.blocks:
        norm = normalising(block)
        assert weighted(block).weight.dim() >= 2
        assert norm is not None
        assert norm is block[list(block).index(weighted(block)) + 1]
    for block in scene(wanted.with_norm("none"), members).blocks:
        assert normalising(block) is None


@pytest.mark.parametrize("norm", ["layer", "l1", "ghost8"])
@pytest.mark.parametrize("options", [{}, {"affine": 0}, {"place": "post"}])
def test_a_normalisation_is_told_by_its_kind(norm, options):
    for members in (ONE, MEMBERS):
        for block in scene(network("mlp", norm, depth=2, width=8, **options), members).blocks:
            found = normalising(block)
            assert found is not None
            assert "Norm" in type(found).__name__
            assert found is not weighted(block)
            assert (list(block).index(found) == 2) == (options.get("place") == "post")


def test_blocks_give_what_the_network_gives():
    found = scene(VGG)
    x = found.batch[0]
    for block in found.blocks:
        x = block(x)
    expected = found.model(found.batch[0])
    torch.testing.assert_close(found.model.output(x.mean(dim=(2, 3))), expected)


def test_values_by_unit():
    images = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    by_unit = scene(VGG).by_unit(images)
    assert by_unit.shape == (1, 3, 32)
    assert torch.equal(by_unit[0, 1].view(2, 4, 4), images[:, 1])
    rows = torch.arange(5 * 3.0).view(5, 3)
    plain = Scene(nn.Linear(3, 3), scene(VGG).task, 0, (rows, rows), torch.ones(1))
    assert torch.equal(plain.by_unit(rows), rows.T[None])
    ensemble = torch.rand(4, 8, 20)
    assert scene(MLP, MEMBERS).by_unit(ensemble) is ensemble


@pytest.mark.parametrize(("wanted", "members"), [(VGG, ONE), (MLP, MEMBERS), (MLP, ONE)])
def test_a_factor_multiplies_parameters_member_by_member(wanted, members):
    found = scene(wanted, members)
    factor = torch.arange(1.0, len(members) + 1)
    for parameter in found.model.parameters():
        scaled = found.by_member(found.per_member(factor, parameter) * parameter)
        assert scaled.shape == (len(members), parameter.numel() // len(members))
        assert torch.equal(scaled, factor[:, None] * found.by_member(parameter))


def test_gradients_are_those_of_each_members_own_loss():
    found = scene(MLP, MEMBERS)
    losses, slopes = found.gradients(*found.batch)
    assert losses.shape == (4,)
    assert len(slopes) == len(list(found.model.parameters()))
    for place in range(4):
        alone = torch.autograd.grad(found.losses(*found.batch)[place], list(found.model.parameters()))
        for whole, own in zip(slopes, alone, strict=True):
            torch.testing.assert_close(whole[place], own[place])
            assert own.flatten(1)[[p for p in range(4) if p != place]].abs().max() == 0


def test_gradients_of_chosen_parameters_and_of_those_without_any():
    found = scene(VGG)
    weight, unused = weighted(found.blocks[0]).weight, torch.ones(3, requires_grad=True)
    with torch.no_grad():  # a measure may be taken without gradients otherwise
        _, (slope, none) = found.gradients(*found.batch, [weight, unused])
    assert slope.shape == weight.shape
    assert slope.abs().max() > 0
    assert none.tolist() == [0, 0, 0]


def test_a_scene_on_the_cpu_is_a_copy():
    found = scene(MLP, MEMBERS)
    copied = found.on_cpu()
    before = [p.clone() for p in found.model.parameters()]
    assert torch.equal(copied.losses(*copied.batch), found.losses(*found.batch))
    with torch.no_grad():
        for parameter in copied.model.parameters():
            parameter.zero_()
    assert all(torch.equal(p, q) for p, q in zip(found.model.parameters(), before, strict=True))
    assert (copied.step, copied.members) == (3, 4)


def test_floats():
    made: Tensor = torch.ones(2, requires_grad=True) / 3
    assert floats(made).dtype == "float64"
    assert floats(made).tolist() == pytest.approx([1 / 3, 1 / 3])
