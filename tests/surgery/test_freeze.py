"""Frozen layers stay frozen, in every way a model is used, and thaw as they were."""

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import xhat
from tests.surgery.users import BatchNormAct, Net, OwnReduce, OwnState, Registered, trained_net
from xhat.errors import ModelError, UsageError
from xhat.norms import batch_norms, has_torch_forward, is_fixed_norm
from xhat.surgery import freeze_, is_frozen, unfreeze_

X = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1)) * 2


def train(model: nn.Module, steps: int = 2) -> None:
    """As training loops do: .train() before every epoch, .eval() after."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(steps):
        model.train()
        optimizer.zero_grad()
        model(X).square().sum().backward()
        optimizer.step()
        model.eval()
        model(X)
    model.train()


def state(model: nn.Module, *ends: str) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items() if k.endswith(ends)}


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return state(model, "running_mean", "running_var", "num_batches_tracked")


def affine(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": parameter.detach().clone()
        for name, layer in batch_norms(model).items()
        for key, parameter in layer.named_parameters(recurse=False)
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def through_pickle(model: nn.Module) -> nn.Module:
    found: nn.Module = pickle.loads(pickle.dumps(model))
    return found


def through_torch(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    found: nn.Module = torch.load(buffer, weights_only=False)
    return found


def as_it_is(model: nn.Module) -> nn.Module:
    return model


def freeze_twice(model: nn.Module) -> nn.Module:
    return freeze_(freeze_(model))


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "itself": as_it_is,
    "deepcopy": copy.deepcopy,
    "pickle": through_pickle,
    "torch.save": through_torch,
    "twice": freeze_twice,
    "copied-copy": lambda model: through_pickle(copy.deepcopy(through_torch(model))),
}


def test_torch_alone_does_not_stay_frozen() -> None:
    """What this is for: requires_grad=False and .eval() both give way."""
    net = trained_net()
    for layer in batch_norms(net).values():
        layer.eval().requires_grad_(False)
    before = statistics(net)
    train(net)
    assert not any(torch.equal(before[key], value) for key, value in statistics(net).items())


@pytest.mark.parametrize("way", COPIES.values(), ids=COPIES)
def test_statistics_stay_and_normalise(way: Callable[[nn.Module], nn.Module]) -> None:
    net = trained_net()
    keys, kinds = list(net.state_dict()), [type(module) for module in net.modules()]
    expected = copy.deepcopy(net).eval()(X)
    frozen = way(freeze_(net))
    assert torch.equal(frozen.train()(X), expected)  # bit for bit what torch computes in evaluation mode
    before, weights = statistics(frozen), affine(frozen)
    train(frozen)
    assert same(statistics(frozen), before)
    assert not any(torch.equal(weights[key], value) for key, value in affine(frozen).items())
    assert list(frozen.state_dict()) == keys
    assert all(isinstance(m, kind) for m, kind in zip(frozen.modules(), kinds, strict=True))
    assert frozen.again is frozen.flat[1]  # type: ignore[index]
    assert frozen.training
    assert not any(layer.training for layer in batch_norms(frozen).values())


@pytest.mark.parametrize("way", COPIES.values(), ids=COPIES)
def test_unfreezing_gives_back_the_layer(way: Callable[[nn.Module], nn.Module]) -> None:
    net = trained_net()
    net.bn2d.bias.requires_grad_(False)
    expected = copy.deepcopy(net)
    thawed = unfreeze_(way(freeze_(net, affine=True)))
    assert [type(module) for module in thawed.modules()] == [type(m) for m in expected.modules()]
    assert [p.requires_grad for p in thawed.parameters()] == [p.requires_grad for p in expected.parameters()]
    assert not any("_xhat_before_freeze" in vars(module) for module in thawed.modules())
    assert all(module.training for module in thawed.modules())
    train(thawed)
    train(expected)
    assert same(state(thawed, ""), state(expected, ""))


@pytest.mark.parametrize("way", [as_it_is, copy.deepcopy, through_pickle, through_torch])
def test_affine_alone(way: Callable[[nn.Module], nn.Module]) -> None:
    net = freeze_(trained_net(), statistics=False, affine=True)
    frozen = way(freeze_(net, statistics=False, affine=True))
    assert not any(map(is_frozen, frozen.modules()))
    before, weights = statistics(frozen), affine(frozen)
    train(frozen)
    assert same(affine(frozen), weights)
    assert not any(torch.equal(before[key], value) for key, value in statistics(frozen).items())
    assert all(p.requires_grad for p in unfreeze_(frozen).parameters())


def test_frozen_affine_parameters_do_not_move_by_an_old_gradient() -> None:
    net = trained_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    net(X).square().sum().backward()
    optimizer.step()
    freeze_(net, affine=True)
    weights = affine(net)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=False)
        net(X).square().sum().backward()
        optimizer.step()
    assert same(affine(net), weights)


def test_a_second_call_adds() -> None:
    net = trained_net()
    net.sync.weight.requires_grad_(False)
    flags = [p.requires_grad for p in net.parameters()]
    freeze_(freeze_(net), statistics=False, affine=True)
    assert all(map(is_frozen, batch_norms(net).values()))
    assert not any(p.requires_grad for layer in batch_norms(net).values() for p in layer.parameters())
    unfreeze_(net)
    assert [p.requires_grad for p in net.parameters()] == flags


def test_layers_that_share_their_parameters_thaw() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    net[1].weight = net[0].weight
    unfreeze_(freeze_(net, affine=True))
    assert all(p.requires_grad for p in net.parameters())


def test_gradients_flow_as_in_evaluation_mode() -> None:
    found = []
    for model in (freeze_(trained_net()).train(), trained_net().eval()):
        x = X.clone().requires_grad_()
        model(x).square().sum().backward()
        assert x.grad is not None
        found.append([x.grad, *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert all(grad.abs().sum() > 0 for grad in found[0])  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", [True, False])
def test_a_single_layer(mode: bool) -> None:
    layer = nn.BatchNorm1d(3)
    assert freeze_(layer) is layer
    assert repr(layer).startswith("FrozenBatchNorm1d(3, ")
    assert layer.train(mode) is layer
    assert not layer.training
    layer(torch.randn(5, 3))
    assert layer.running_mean is not None
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert unfreeze_(layer) is layer
    assert layer.training is mode
    assert type(layer) is nn.BatchNorm1d


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True)])
def test_the_mode_after_unfreezing_is_that_of_the_model(before: bool, after: bool) -> None:
    net = trained_net().train(before)
    net.flat.eval()
    freeze_(net)
    assert net.training is before
    net.train(after)
    net.flat.train(not after)
    unfreeze_(net)
    assert [net.bn2d.training, net.sync.training] == [after, after]
    assert net.bn2d.train().training


def test_torchs_update_bn_leaves_frozen_layers() -> None:
    """It resets the statistics of every batch norm and puts the model in training mode."""
    net = trained_net()
    freeze_(net.flat)
    frozen, others = statistics(net.flat), statistics(net.bn2d)
    torch.optim.swa_utils.update_bn([X, X + 1], net)
    assert same(statistics(net.flat), frozen)
    assert not same(statistics(net.bn2d), others)
    assert net.flat[1].momentum == 0.1


def test_what_a_users_layer_holds_keeps_its_mode() -> None:
    net = freeze_(trained_net())
    layer = net.get_submodule("user")
    assert isinstance(layer, BatchNormAct)
    assert layer.drop.training
    net.eval()
    assert not layer.drop.training
    net.train()
    assert layer.drop.training


def test_a_layer_within_a_frozen_layer_takes_the_mode_of_the_model() -> None:
    outer = nn.BatchNorm1d(3)
    outer.inner = nn.BatchNorm1d(3)
    net = unfreeze_(freeze_(nn.Sequential(outer)).train())
    assert all(module.training for module in net.modules())


def test_parts_of_a_model() -> None:
    net = trained_net()
    freeze_(net.flat)
    assert [name for name, m in net.named_modules() if is_frozen(m)] == ["flat.1"]
    assert not is_frozen(net.bn2d)
    unfreeze_(net)
    assert not any(map(is_frozen, net.modules()))


def test_other_tools_still_know_the_layer() -> None:
    net = freeze_(trained_net())
    layers = batch_norms(net)
    assert list(layers) == ["bn2d", "user", "bn3d", "flat.1", "sync"]
    assert [has_torch_forward(layer) for layer in layers.values()] == [True, False, True, True, True]
    assert not any(map(is_fixed_norm, layers.values()))
    traced = torch.fx.symbolic_trace(nn.Sequential(net.get_submodule("bn2d")))
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "call_module", "output"]
    thawed = trained_net()
    thawed.load_state_dict(net.state_dict())
    assert same(state(thawed, ""), state(net, ""))
    net.to(torch.float64)
    assert net(X.double()).dtype == torch.float64


def test_one_class_a_kind() -> None:
    kinds = {type(m) for m in freeze_(nn.Sequential(*(nn.BatchNorm1d(3) for _ in range(3)))).children()}
    assert [kind.__name__ for kind in kinds] == ["FrozenBatchNorm1d"]
    assert kinds == {type(freeze_(nn.BatchNorm1d(2)))}


# Users' classes.


def test_a_class_that_registers_its_subclasses_does_not_see_ours() -> None:
    layer = freeze_(Registered(3))
    assert isinstance(layer, Registered)
    assert Registered.kinds == []


@pytest.mark.parametrize("kind", [OwnReduce, OwnState])
def test_pickling_of_the_users_own(kind: type[nn.BatchNorm1d]) -> None:
    layer = freeze_(kind(3))
    for way in (through_pickle, through_torch, copy.deepcopy, copy.copy):
        found: Any = way(layer)
        assert is_frozen(found)
        assert isinstance(found, kind)
        assert not found.train().training
        assert type(unfreeze_(copy.deepcopy(found))) is kind
        assert found.training is False


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(protocol: int) -> None:
    net = freeze_(trained_net())
    found: nn.Module = pickle.loads(pickle.dumps(net, protocol))
    assert torch.equal(found.train()(X), net(X))


def test_a_fresh_process_loads_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Mine(nn.BatchNorm1d):\n"
        "    def forward(self, x): return super().forward(x).relu()\n"
    )
    torch.manual_seed(0)
    sys.path.insert(0, str(tmp_path))
    try:
        from mine import Mine  # type: ignore[import-not-found]

        net = nn.Sequential(nn.Linear(3, 3), Mine(3), nn.BatchNorm1d(3))
        net(torch.randn(6, 3))
        freeze_(net, affine=True)
        torch.save(net, tmp_path / "net.pt")
        (tmp_path / "net.pickle").write_bytes(pickle.dumps(net))
        torch.save({"x": (x := torch.randn(4, 3)), "out": net(x)}, tmp_path / "expected.pt")
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("mine", None)
    code = """
import pickle, torch
expected = torch.load("expected.pt")
with open("net.pickle", "rb") as file:
    nets = [pickle.load(file), torch.load("net.pt", weights_only=False)]
import mine
from torch import nn
from xhat.surgery import is_frozen, unfreeze_
for net in nets:
    assert torch.equal(net.train()(expected["x"]), expected["out"])
    assert is_frozen(net[1]) and is_frozen(net[2]) and isinstance(net[1], mine.Mine)
    assert repr(net[1]).startswith("FrozenMine(")
    assert not net[1].weight.requires_grad
    unfreeze_(net)
    assert type(net[1]) is mine.Mine and type(net[2]) is nn.BatchNorm1d
    assert net[1].training and net[1].weight.requires_grad
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


# torch.compile.


def test_compiled_with_a_full_graph() -> None:
    torch._dynamo.reset()
    net = trained_net()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    before = statistics(net)
    compiled(X)
    assert not same(statistics(net), before)
    expected = copy.deepcopy(net).eval()(X)
    freeze_(net)  # after it was compiled
    before = statistics(net)
    assert torch.equal(compiled(X), expected)
    net.train()
    assert torch.equal(compiled(X), expected)
    compiled(X).sum().backward()
    net.eval()
    assert torch.equal(compiled(X), expected)
    assert same(statistics(net), before)
    unfreeze_(net.train())
    compiled(X)
    assert not same(statistics(net), before)
    torch._dynamo.reset()


# What is refused.


def test_nothing_to_freeze() -> None:
    with pytest.raises(UsageError, match="Linear has no batch norm"):
        freeze_(nn.Linear(3, 3))
    with pytest.raises(UsageError, match="leave nothing to freeze"):
        freeze_(nn.BatchNorm1d(3), statistics=False)
    plain = nn.Linear(3, 3)
    assert unfreeze_(plain) is plain


def parametrised() -> nn.Module:
    layer = nn.BatchNorm1d(3)
    parametrize.register_parametrization(layer, "weight", nn.Softplus())
    return layer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.BatchNorm1d(3, track_running_stats=False), "'layers.1' has no running statistics"),
        (lambda: nn.LazyBatchNorm1d(), "'layers.1' is lazy"),
        (parametrised, "'layers.1' is parametrised"),
    ],
    ids=["no-statistics", "lazy", "parametrised"],
)
def test_a_layer_that_cannot_be_frozen_leaves_all_as_they_were(
    make: Callable[[], nn.Module], message: str
) -> None:
    net = nn.ModuleDict({"layers": nn.Sequential(nn.BatchNorm1d(3), make(), nn.BatchNorm1d(3))})
    kinds = [type(module) for module in net.modules()]
    with pytest.raises(ModelError, match=message):
        freeze_(net, affine=True)
    assert [type(module) for module in net.modules()] == kinds
    assert all(module.training for module in net.modules())
    assert all(p.requires_grad for p in net.parameters())
    assert not any("_xhat_before_freeze" in vars(module) for module in net.modules())


def test_affine_parameters_of_a_layer_without_statistics_can_be_frozen() -> None:
    layer = nn.BatchNorm1d(3, track_running_stats=False)
    freeze_(layer, statistics=False, affine=True)
    assert not layer.weight.requires_grad
    assert unfreeze_(layer).weight.requires_grad


def test_a_layer_parametrised_when_frozen_does_not_thaw() -> None:
    layer = nn.Sequential(freeze_(nn.BatchNorm1d(3)))
    parametrize.register_parametrization(layer[0], "weight", nn.Softplus())
    with pytest.raises(ModelError, match="'0' is parametrised"):
        unfreeze_(layer)
    assert is_frozen(layer[0])
    assert not layer.train()[0].training


def test_constant_statistics_equal_the_formula() -> None:
    """Against the formula in float64, so that torch's own evaluation mode is not the only oracle."""
    net = freeze_(trained_net()).double()
    layer = net.get_submodule("bn2d")
    assert isinstance(layer, nn.BatchNorm2d)
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    shape = (1, 4, 1, 1)
    mean, var, gamma, beta = (
        t.view(shape)  # type: ignore[union-attr]
        for t in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    torch.testing.assert_close(layer(x), (x - mean) / (var + layer.eps).sqrt() * gamma + beta)
    assert F.mse_loss(layer(x), nn.BatchNorm2d(4).double()(x)) > 1e-3


def test_names_are_had_from_xhat() -> None:
    assert xhat.freeze_ is freeze_
    assert xhat.unfreeze_ is unfreeze_


def test_a_frozen_net_is_a_net() -> None:
    assert isinstance(freeze_(Net()), Net)
