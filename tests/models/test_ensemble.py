"""An ensemble's members are the separate networks: outputs, statistics, gradients, training."""

import copy
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xhat.data import TensorData, digits
from xhat.errors import UsageError
from xhat.models import MLP, VGG, DeepLinear, DistributionNoise, Ensemble
from xhat.study.networks import build
from xhat.study.spec import FIRST_SEED, Data, Member, Network, TrainSpec
from xhat.study.tasks import LinearRegression, _Order
from xhat.study.train import train

Module = MLP | DeepLinear
Options = dict[str, Any]
NORMS = ("batch", "none", "layer", "none+noise", "batch+noise", "l1", "linf", "ghost2", "ghost3", "ghost8")
OPTIONS: dict[str, Options] = {
    "no-bias": {"bias": False},
    "no-affine": {"affine": False},
    "post": {"place": "post"},
    "only-first": {"only": 0},
    "only-last": {"only": 2},
    "dropout": {"dropout": 0.4},
    "all": {"bias": False, "affine": False, "place": "post", "only": 1, "dropout": 0.4},
}
# Name, norm, activation (None: a deep linear network), options.
CASES: list[tuple[str, str, str | None, Options]] = [
    *(
        (f"mlp-{norm}-{activation}", norm, activation, {})
        for norm, activation in product(NORMS, ("relu", "tanh"))
    ),
    ("mlp-batch-sigmoid", "batch", "sigmoid", {}),
    ("mlp-none-identity", "none", "identity", {}),
    *((f"linear-{norm}", norm, None, {}) for norm in NORMS),
    *(
        (f"mlp-{norm}-{name}", norm, "sigmoid", options)
        for norm, (name, options) in product(("batch", "layer", "linf", "ghost3"), OPTIONS.items())
    ),
]
MEMBERS, N = 3, 7


def make(
    norm: str,
    activation: str | None,
    seed: int,
    dtype: torch.dtype = torch.float32,
    options: Options | None = None,
) -> Module:
    torch.manual_seed(seed)
    module: Module
    if activation is None:
        module = DeepLinear(depth=4, width=5, norm=norm)
    else:
        module = MLP(5, 4, depth=3, width=6, activation=activation, norm=norm, **(options or {}))
    for parameter in module.parameters():  # γ and β too
        nn.init.normal_(parameter, mean=0.3, std=0.5)
    return module.to(dtype)


def members(
    norm: str,
    activation: str | None,
    dtype: torch.dtype = torch.float32,
    options: Options | None = None,
) -> list[Module]:
    return [make(norm, activation, seed, dtype, options) for seed in range(MEMBERS)]


def inputs(groups: int = MEMBERS, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(groups, 5, N, generator=torch.Generator().manual_seed(1)).to(dtype) * 2 + 1


def separately(modules: list[Module], x: Tensor) -> Tensor:
    return torch.stack([module(part.t()).t() for module, part in zip(modules, x, strict=True)])


def silent(module: nn.Module) -> None:
    """Put in training mode all but noise and dropout: the draws of an ensemble are others."""
    module.train()
    for layer in module.modules():
        if isinstance(layer, DistributionNoise | nn.Dropout):
            layer.eval()


@pytest.mark.parametrize(
    ("norm", "activation", "options"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_each_member_computes_what_its_module_does(
    norm: str, activation: str | None, options: Options
) -> None:
    modules, x = members(norm, activation, torch.float64, options), inputs(dtype=torch.float64)
    ensemble = Ensemble(modules)
    for module in (*modules, ensemble):
        silent(module)
    got, expected = ensemble(x), separately(modules, x)
    torch.testing.assert_close(got, expected)
    got.square().sum().backward()
    expected.square().sum().backward()
    alone = [[p.grad for p in module.parameters()] for module in modules]
    for parameter, *slopes in zip(ensemble.parameters(), *alone, strict=True):
        torch.testing.assert_close(parameter.grad, torch.stack([s for s in slopes if s is not None]))
    statistics = [b for b in ensemble.buffers() if b.dim()]
    for buffer, *own in zip(statistics, *(float_buffers(m) for m in modules), strict=True):
        torch.testing.assert_close(buffer, torch.stack(own))
    assert len(statistics) == len(float_buffers(modules[0]))
    for module in (*modules, ensemble):
        module.eval()
    torch.testing.assert_close(ensemble(x), separately(modules, x))


def test_members_draw_their_own_dropout() -> None:
    module = MLP(5, 4, depth=2, width=400, norm="none", activation="identity", dropout=0.25).eval()
    ensemble = Ensemble([module, module, module])
    before = ensemble.hidden[0][:-1](inputs(1))
    kept = ensemble.hidden[0](inputs(1))
    torch.testing.assert_close(kept, torch.where(kept == 0, 0, before / 0.75))
    dropped = (kept == 0).double()
    assert dropped.mean((1, 2)).tolist() == pytest.approx([0.25] * 3, abs=0.05)  # 6 standard errors
    both = (dropped[0] * dropped[1]).mean().item()
    assert both == pytest.approx(0.25**2, abs=0.03)
    assert not module.hidden[0][-1].training  # the ensemble's mode is its own


def float_buffers(module: nn.Module) -> list[Tensor]:
    return [buffer for buffer in module.buffers() if buffer.is_floating_point()]


def test_members_that_are_trained_keep_their_running_statistics() -> None:
    modules = members("batch", "relu")
    separately(modules, inputs() * 3 - 1)  # moves the statistics
    ensemble = Ensemble(modules).eval()
    torch.testing.assert_close(ensemble(inputs()), separately([m.eval() for m in modules], inputs()))


def test_an_ensemble_is_a_copy() -> None:
    modules = members("batch", "relu")
    before = copy.deepcopy([module.state_dict() for module in modules])
    ensemble = Ensemble(modules)
    with torch.no_grad():
        for tensor in (*ensemble.parameters(), *ensemble.buffers()):
            tensor.add_(1)
    ensemble(inputs())
    for module, state in zip(modules, before, strict=True):
        torch.testing.assert_close(module.state_dict(), state, rtol=0, atol=0)


@pytest.mark.parametrize(("groups", "count"), [(1, 4), (2, 4), (2, 6), (3, 6), (4, 4)])
@pytest.mark.parametrize("activation", ["relu", None])
def test_groups_share_their_input(groups: int, count: int, activation: str | None) -> None:
    ensemble = Ensemble([make("batch", activation, seed) for seed in range(count)])
    x = inputs(groups)
    torch.testing.assert_close(ensemble(x), ensemble(x.repeat_interleave(count // groups, 0)))


@pytest.mark.parametrize("norm", ["batch", "none", "layer", "l1", "linf", "ghost3"])
def test_a_member_that_is_not_finite_leaves_the_others_alone(norm: str) -> None:
    modules = members(norm, "relu")
    healthy, sick = Ensemble(modules), Ensemble(modules)
    with torch.no_grad():
        sick.hidden[0][0].weight[1] = torch.nan
    for x in (inputs(), inputs(1)):
        expected, got = healthy(x), sick(x)
        assert got[1].isnan().all()
        torch.testing.assert_close(got[[0, 2]], expected[[0, 2]])
        slopes = torch.autograd.grad(got.sum(), list(sick.parameters()))
        wanted = torch.autograd.grad(expected.sum(), list(healthy.parameters()))
        for slope, want in zip(slopes, wanted, strict=True):
            torch.testing.assert_close(slope[[0, 2]], want[[0, 2]])


def test_one_member() -> None:
    module = make("batch", "tanh", 0)
    torch.testing.assert_close(Ensemble([module])(inputs(1)), separately([module], inputs(1)))


class Wide(MLP):
    """An MLP with a layer that ensembles do not know."""

    def __init__(self) -> None:
        super().__init__(5, 4, depth=1, width=6)
        self.hidden[0].append(nn.PReLU())


WRONG: dict[str, tuple[Callable[[], list[nn.Module]], str]] = {
    "none": (list, "one member at least"),
    "vgg": (lambda: [VGG(1, 4)], "member 0 is a VGG"),
    "linear": (lambda: [make("batch", "relu", 0), nn.Linear(5, 4)], "member 1 is a Linear"),
    "unknown-layer": (lambda: [Wide()], "cannot hold PReLU"),
    "group-norm": (lambda: [MLP(5, 4, width=8, norm="group")], "cannot hold GroupNorm"),
    "norms": (lambda: [make("none", "relu", 0), make("batch", "relu", 1)], "member 1 is unlike member 0"),
    "noise": (lambda: [make("none", "relu", 0), make("none+noise", "relu", 1)], "unlike"),
    "activations": (lambda: [make("none", "relu", 0), make("none", "tanh", 1)], "unlike"),
    "width": (lambda: [MLP(5, 4, width=6), MLP(5, 4, width=7)], "unlike"),
    "depth": (lambda: [MLP(5, 4, depth=2), MLP(5, 4, depth=3)], "unlike"),
    "dropout": (lambda: [MLP(5, 4, dropout=0.1), MLP(5, 4, dropout=0.2)], "unlike"),
    "chunks": (lambda: [MLP(5, 4, norm="ghost8"), MLP(5, 4, norm="ghost16")], "unlike"),
    "p": (lambda: [MLP(5, 4, norm="l1"), MLP(5, 4, norm="linf")], "unlike"),
    "place": (lambda: [MLP(5, 4, place="pre"), MLP(5, 4, place="post")], "unlike"),
    "only": (lambda: [MLP(5, 4, only=1), MLP(5, 4, only=2)], "unlike"),
    "kinds": (lambda: [MLP(5, 4), DeepLinear(width=5)], "unlike"),
}


@pytest.mark.parametrize(("modules", "message"), WRONG.values(), ids=WRONG)
def test_members_that_cannot_be_stacked(modules: Callable[[], list[Module]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Ensemble(modules())


def test_groups_must_divide_the_members() -> None:
    # 3 members of 6 units could be cut into 2 pieces of 9 units, and would be mixed up.
    with pytest.raises(UsageError, match=r"has 2 groups, and 3 members"):
        Ensemble(members("none", "relu"))(inputs(2))


# Training: one ensemble's run against a plain loop over its members.

STEPS, BATCH = 10, 16
TRAINED = [
    *(
        ("mlp", norm, activation)
        for norm in ("batch", "none", "layer", "l1", "linf", "ghost8")
        for activation in ("relu", "sigmoid")
    ),
    ("mlp", "batch", "tanh"),
    ("deep-linear", "batch", ""),
    ("deep-linear", "none", ""),
]


@pytest.fixture(scope="module")
def data() -> TensorData:
    return digits()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(("name", "norm", "activation"), TRAINED)
def test_training_is_that_of_the_members_one_after_another(
    name: str, norm: str, activation: str, momentum: float, data: TensorData
) -> None:
    rates = (0.05, 0.2) if name == "mlp" else (1e-6, 1e-5)
    options = (("depth", 3), ("width", 12), ("activation", activation)) if activation else (("depth", 4),)
    spec = TrainSpec(
        Network(name, norm, options),
        Data("digits"),
        tuple(Member(seed, rate, init="xavier") for seed in (0, 1) for rate in rates),
        steps=STEPS,
        batch_size=BATCH,
        momentum=momentum,
    )
    _, arrays = train(spec)
    for index, member in enumerate(spec.members):
        losses, accuracy = trained_alone(spec, member, data)
        torch.testing.assert_close(torch.from_numpy(arrays["loss"][index]), losses, rtol=2e-4, atol=1e-5)
        if activation:
            assert arrays["test_accuracy"][index] == pytest.approx(accuracy, abs=2 / len(data.test_y))
    assert abs(arrays["loss"][0, -1] - arrays["loss"][1, -1]) > 1e-3  # the learning rates matter


def trained_alone(spec: TrainSpec, member: Member, data: TensorData) -> tuple[Tensor, float]:
    """A loop as anybody would write it, with torch's own optimiser."""
    (module,) = copy_of_members(spec, member, data)
    optimizer = torch.optim.SGD(module.parameters(), lr=member.lr, momentum=spec.momentum)
    order = _Order(member.seed, len(data.train_y), BATCH)
    losses = []
    for _ in range(STEPS):
        if spec.network.name == "mlp":
            chosen = order.next()
            loss = F.cross_entropy(module(data.train_x[chosen]), data.train_y[chosen])
        else:
            (x,), (target,) = LinearRegression((member.seed,)).batch(0)
            loss = (module(x.t()) - target.t()).square().sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
    if spec.network.name != "mlp":
        return torch.stack(losses), 0.0
    right = module.eval()(data.test_x).argmax(1) == data.test_y
    return torch.stack(losses), float(right.float().mean())


def copy_of_members(spec: TrainSpec, member: Member, data: TensorData) -> list[nn.Module]:
    """The module that the ensemble was made from; the members' own draws hang on the seed alone."""
    shape = data.train_x.shape[1:].numel()
    torch.manual_seed(FIRST_SEED + member.seed)
    options = dict(spec.network.options)
    module = (
        MLP(shape, data.classes, norm=spec.network.norm, **options)  # type: ignore[arg-type]
        if spec.network.name == "mlp"
        else DeepLinear(norm=spec.network.norm, **options)  # type: ignore[arg-type]
    )
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return [module]


def test_members_of_a_run_start_from_their_own_seed(data: TensorData) -> None:
    member = [Member(seed, 0.1) for seed in (3, 4)]
    both = build(Network("mlp"), tuple(member), data)
    alone = [build(Network("mlp"), (one,), data) for one in member]
    for stacked, *own in zip(both.parameters(), *(m.parameters() for m in alone), strict=True):
        assert torch.equal(stacked, torch.cat(own))
