"""Walks along the gradient: closed forms, torch.func beside them, and a model that comes out untouched."""

import copy
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from tests.landscape.everything import look_around, make
from xhat.errors import UsageError
from xhat.landscape import AlongGradient, along_gradient
from xhat.models import MLP, VGG, DistributionNoise, Ensemble

STEPS = (0.01, 0.1, 0.5)
NOTHING = torch.zeros(1)


def value(loss: Tensor) -> float:
    return float(loss.detach())


class Point(nn.Module):
    """A network that is its parameter: the output is w, whatever comes in."""

    def __init__(self, w: list[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w


def symmetric(seed: int, size: int) -> Tensor:
    half = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return half + half.t()


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 10_000),
    st.lists(st.floats(-10, 10).filter(lambda v: abs(v) > 1e-3), min_size=1, max_size=6),
    st.lists(st.floats(1e-4, 10), min_size=1, max_size=4),
)
def test_a_quadratic(seed: int, w: list[float], steps: list[float]) -> None:
    # L = ½ wᵀAw: g = Aw; at w - ηg the gradient is g - ηAg.
    A = symmetric(seed, len(w))
    found = along_gradient(Point(w), lambda out, _: out @ A @ out / 2, (NOTHING, NOTHING), steps=steps)
    at, matrix = np.array(w), A.numpy()
    g = matrix @ at
    scale = np.abs(matrix).sum() * np.abs(at).max() ** 2 + 1e-12
    assert found.start_loss == pytest.approx(at @ g / 2, abs=1e-12 * scale)
    assert found.gradient_norm == pytest.approx(np.linalg.norm(g))
    assert found.weight_norm == pytest.approx(np.linalg.norm(at))
    for step, loss, distance, beta in zip(steps, found.loss, found.predictiveness, found.beta, strict=True):
        there = at - step * g
        size = np.abs(matrix).sum() * (np.abs(there).max() ** 2 + np.abs(at).max() ** 2)
        assert loss == pytest.approx(there @ matrix @ there / 2, abs=1e-12 * size)
        assert distance == pytest.approx(step * np.linalg.norm(matrix @ g), rel=1e-6)
        assert beta == pytest.approx(np.linalg.norm(matrix @ g) / np.linalg.norm(g), rel=1e-6)
    assert found.effective_beta <= np.abs(np.linalg.eigvalsh(matrix)).max() * (1 + 1e-6)


def test_beta_is_the_eigenvalue_along_an_eigenvector() -> None:
    A = torch.diag(torch.tensor([2.0, 7.0], dtype=torch.float64))
    for w, eigenvalue in (([1.0, 0], 2), ([0, 3.0], 7)):
        found = along_gradient(Point(w), lambda out, _: out @ A @ out / 2, (NOTHING, NOTHING), steps=STEPS)
        assert found.beta == pytest.approx([eigenvalue] * 3)
        assert found.normalised_beta == pytest.approx(eigenvalue * found.weight_norm**2)


def test_linear_regression() -> None:
    # L = mean (Xw + b - y)²: the Hessian is 2/N [X 1]ᵀ[X 1].
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, dtype=torch.float64, generator=generator)
    y = torch.randn(20, 1, dtype=torch.float64, generator=generator)
    model = nn.Linear(3, 1).double()
    found = along_gradient(model, F.mse_loss, (x, y), steps=STEPS)
    X = np.column_stack([x.numpy(), np.ones(20)])
    w = np.concatenate([model.weight.detach().numpy()[0], model.bias.detach().numpy()])
    H = 2 / 20 * X.T @ X
    g = 2 / 20 * X.T @ (X @ w - y.numpy()[:, 0])
    assert found.gradient_norm == pytest.approx(np.linalg.norm(g))
    assert found.beta == pytest.approx([np.linalg.norm(H @ g) / np.linalg.norm(g)] * 3)
    losses = [np.mean((X @ (w - step * g) - y.numpy()[:, 0]) ** 2) for step in STEPS]
    assert found.loss == pytest.approx(losses)
    assert found.loss_variation == pytest.approx(max(losses) - min(losses))
    assert found.batch_size == 20


def two_scalars(a: float, b: float) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    model[0].weight.data.fill_(a)
    model[1].weight.data.fill_(b)
    return model


ONE, ZERO = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)


def test_two_scalars_by_hand() -> None:
    # L = ½(ab)², a = 2, b = 1: g = (ab·b, ab·a) = (2, 4).
    found = along_gradient(
        two_scalars(2, 1),
        lambda out, target: (out - target).square().sum() / 2,
        (ONE, ZERO),
        steps=(0.25, 0.5),
    )
    assert found.start_loss == 2
    assert found.gradient_norm == pytest.approx(math.sqrt(20))
    assert found.weight_norm == pytest.approx(math.sqrt(5))
    # η = ¼: (3/2, 0), gradient 0. η = ½: (1, -1), gradient (1, -1), g - g' = (1, 5).
    assert found.loss == pytest.approx([0, 0.5])
    assert found.predictiveness == pytest.approx([math.sqrt(20), math.sqrt(26)])
    assert found.beta == pytest.approx([4, math.sqrt(26 / 20) / 0.5])
    assert found.effective_beta == pytest.approx(4)
    assert found.loss_variation == pytest.approx(0.5)


def test_a_tied_weight_is_walked_once() -> None:
    # L = ½w⁴, w = 2: g = 2w³ = 16; at w - g/16 = 1 the gradient is 2.
    model = two_scalars(2, 2)
    model[1].weight = model[0].weight
    found = along_gradient(model, lambda out, _: out.square().sum() / 2, (ONE, ZERO), steps=(1 / 16,))
    assert (found.start_loss, found.gradient_norm, found.weight_norm) == (8, 16, 2)
    assert (found.loss[0], found.predictiveness[0]) == (0.5, 14)


def reference(
    model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], x: Tensor, y: Tensor
) -> tuple[list[float], list[float]]:
    """Loss and ‖g - g'‖ by torch.func, which moves no weight in place."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            module.running_mean = module.running_var = module.num_batches_tracked = None
    w = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return loss_fn(torch.func.functional_call(model, weights, (x,)), y)

    gradient = torch.func.grad(loss)(w)
    losses, distances = [], []
    for step in STEPS:
        there = {name: w[name] - step * gradient[name] for name in w}
        here = torch.func.grad(loss)(there)
        losses.append(float(loss(there)))
        distances.append(math.sqrt(sum(float((gradient[name] - here[name]).square().sum()) for name in w)))
    return losses, distances


def images(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(12, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(4, (12,), generator=generator)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vgg-batch": lambda: VGG(1, 4, width=2),
    "vgg-none": lambda: VGG(1, 4, width=2, norm="none"),
    "vgg-group": lambda: VGG(1, 4, width=2, norm="group"),
    "mlp-batch": lambda: MLP(64, 4, depth=3, width=7, activation="tanh"),
    "mlp-layer": lambda: MLP(64, 4, depth=3, width=7, norm="layer"),
}


@pytest.mark.parametrize("half_frozen", [False, True])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_networks_against_torch_func(network: Callable[[], nn.Module], half_frozen: bool) -> None:
    torch.manual_seed(0)
    model, (x, y) = network().double(), images()
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(not half_frozen or index % 2 == 0)
    found = along_gradient(model, F.cross_entropy, (x, y), steps=STEPS)
    losses, distances = reference(model.train(), F.cross_entropy, x, y)
    assert found.loss == pytest.approx(losses, rel=1e-9)
    assert found.predictiveness == pytest.approx(distances, rel=1e-7)


def test_frozen_parameters_stay_out() -> None:
    # L = ½(ab)² in b alone: g = ab·a = 4, ‖w‖ = |b|.
    model = two_scalars(2, 1)
    model[0].requires_grad_(False)
    found = along_gradient(model, lambda out, _: out.square().sum() / 2, (ONE, ZERO), steps=(0.125,))
    assert (found.gradient_norm, found.weight_norm) == (4, 1)
    assert (found.loss[0], found.predictiveness[0]) == (0.5, 2)


def test_a_parameter_that_is_not_used_has_gradient_zero() -> None:
    model = two_scalars(2, 1)
    model.spare = nn.Parameter(torch.full((3,), 2.0, dtype=torch.float64))
    found = along_gradient(model, lambda out, _: out.square().sum() / 2, (ONE, ZERO), steps=(0.25,))
    assert found.gradient_norm == pytest.approx(math.sqrt(20))
    assert found.weight_norm == pytest.approx(math.sqrt(5 + 12))


def test_normalised_beta_does_not_see_the_scale_of_weights_before_bn() -> None:
    # At 10 w: gradient /10, so steps a hundred times as large go as far, and β is a hundredth.
    torch.manual_seed(0)
    model, (x, y) = MLP(64, 4, depth=2, width=7).double(), images()
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eps = 1e-30
        module.requires_grad_("hidden" in name and isinstance(module, nn.Linear))
    small = along_gradient(model, F.cross_entropy, (x, y), steps=STEPS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10 if parameter.requires_grad else 1)
    large = along_gradient(model, F.cross_entropy, (x, y), steps=[100 * step for step in STEPS])
    assert large.loss == pytest.approx(small.loss)
    assert large.effective_beta == pytest.approx(small.effective_beta / 100)
    assert large.normalised_beta == pytest.approx(small.normalised_beta)


# Statistics and randomness.


def shifted_bn(kind: type[nn.Module] = nn.BatchNorm1d) -> nn.Sequential:
    """A network whose running statistics are far from any batch's."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), kind(5), nn.Linear(5, 4)).double()
    for buffer in model[2].buffers():
        buffer.fill_(3)
    return model


def test_statistics_are_the_batchs_or_the_running_ones() -> None:
    model, (x, y) = shifted_bn(), images()
    batch = along_gradient(model, F.cross_entropy, (x, y), steps=STEPS)
    frozen = along_gradient(model, F.cross_entropy, (x, y), steps=STEPS, statistics="frozen")
    assert batch.start_loss == pytest.approx(value(F.cross_entropy(model.train()(x), y)))
    model = shifted_bn().eval()
    assert frozen.start_loss == pytest.approx(value(F.cross_entropy(model(x), y)))
    losses, distances = reference(model, F.cross_entropy, x, y)
    assert frozen.loss == pytest.approx(losses)
    assert frozen.predictiveness == pytest.approx(distances)
    assert (batch.statistics, frozen.statistics) == ("batch", "frozen")
    assert abs(batch.start_loss - frozen.start_loss) > 0.01


@pytest.mark.parametrize("statistics", ["batch", "frozen"])
def test_the_mode_before_does_not_matter(statistics: Any) -> None:
    found = []
    for training in (True, False):
        model, (x, y) = shifted_bn().train(training), images()
        found.append(along_gradient(model, F.cross_entropy, (x, y), steps=STEPS, statistics=statistics))
        assert all(module.training is training for module in model.modules())
    assert found[0].loss.tolist() == found[1].loss.tolist()


def test_frozen_leaves_everything_else_as_in_training() -> None:
    x, y = images()
    model = nn.Sequential(
        nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 4)
    )
    model.double()[0].running_mean.fill_(100.0)
    state = torch.get_rng_state()
    found = along_gradient(model, F.cross_entropy, (x, y), steps=STEPS, statistics="frozen")
    torch.set_rng_state(state)
    assert found.start_loss == pytest.approx(value(F.cross_entropy(model.train()(x), y)))


def test_an_ensemble_is_frozen_too() -> None:
    torch.manual_seed(0)
    ensemble, x = Ensemble([MLP(5, 4, depth=2, width=6) for _ in range(2)]), torch.randn(2, 5, 9) + 2
    frozen = along_gradient(
        ensemble, lambda out, _: out.square().mean(), (x, NOTHING), steps=STEPS, statistics="frozen"
    )
    assert frozen.start_loss == pytest.approx(value(ensemble.eval()(x).square().mean()))


class Noise(nn.Module):
    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + self.draw())


class Momentum(nn.Module):
    """Divides by an average that moves with every training pass."""

    average: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.ones(1))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.average = 0.5 * self.average + 0.5 * x.detach().abs().mean()
        return x / self.average / self.calls


def with_own_generator() -> nn.Module:
    generator = torch.Generator()
    layer = Noise(lambda: float(torch.rand(1, generator=generator)))
    layer.generator = generator  # type: ignore[assignment]
    return layer


STATEFUL: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: nn.Dropout(0.5),
    "distribution-noise": lambda: DistributionNoise(6),
    "numpy": lambda: Noise(np.random.rand),
    "python": lambda: Noise(random.random),
    "own-generator": with_own_generator,
    "spectral-norm": lambda: spectral_norm(nn.Linear(6, 6)),
    "moving-average": Momentum,
}


@pytest.mark.parametrize("layer", STATEFUL.values(), ids=STATEFUL)
def test_the_loss_is_a_function_of_the_weights_alone(layer: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), layer(), nn.Linear(6, 4)).double()
    before = look_around(model)
    found = along_gradient(model, F.cross_entropy, images(), steps=(1e-9, 1e-6))
    # η → 0: the loss and the gradient come back, to first order in η.
    assert found.loss[0] == pytest.approx(found.start_loss, abs=1e-7)
    assert found.predictiveness[0] < 1e-6 * found.gradient_norm
    assert found.beta[1] < 1e3
    assert look_around(model) == before


# A model untouched.


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.parametrize("statistics", ["batch", "frozen"])
def test_the_model_is_left_as_it_was(statistics: Any, at: int, error: type[BaseException]) -> None:
    model, calls = make(), 0
    model.experts.requires_grad_(False)
    before = look_around(model)

    def loss_fn(output: Tensor, target: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return (output - target).square().mean()

    batch = (torch.ones(4, 3), torch.zeros(4, 3))
    with pytest.raises(error):
        along_gradient(model, loss_fn, batch, steps=STEPS, statistics=statistics)
    assert look_around(model) == before
    calls = at
    along_gradient(model, loss_fn, batch, steps=STEPS, statistics=statistics)
    assert look_around(model) == before


def test_a_loss_that_alters_the_model() -> None:
    x, y = images()
    model = shifted_bn()
    expected = along_gradient(model, F.cross_entropy, (x, y), steps=STEPS)
    before = look_around(model)

    def loss_fn(output: Tensor, target: Tensor) -> Tensor:
        model.eval()
        model.zero_grad()
        model[2].num_batches_tracked.fill_(7)
        model.seen = True  # type: ignore[assignment]
        return F.cross_entropy(output, target)

    found = along_gradient(model, loss_fn, (x, y), steps=STEPS)
    assert found.loss.tolist() == expected.loss.tolist()
    assert look_around(model) == before


def test_between_forward_and_backward() -> None:
    (x, y), slopes = images(), []
    for probed in (False, True):
        model = shifted_bn()
        loss = F.cross_entropy(model(x), y)
        if probed:
            along_gradient(model, F.cross_entropy, (x, y), steps=STEPS)
        loss.backward()  # type: ignore[no-untyped-call]
        slopes.append(model[1].weight.grad)
    assert torch.equal(*slopes)


def test_under_no_grad() -> None:
    model, batch = shifted_bn(), images()
    expected = along_gradient(model, F.cross_entropy, batch, steps=STEPS)
    with torch.no_grad():
        assert (
            along_gradient(model, F.cross_entropy, batch, steps=STEPS).loss.tolist() == expected.loss.tolist()
        )


# What users pass.


class Branches(nn.Module):
    """Takes a dict, gives a tuple, keeps its layers in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 4), nn.ModuleDict({"deep": MLP(64, 4, depth=1)})])

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        x = batch["image"].flatten(1)
        return self.layers[0](x), self.layers[1]["deep"](x)  # type: ignore[index, operator]


def test_dict_in_tuple_out() -> None:
    torch.manual_seed(0)
    model, (x, y) = Branches(), images(torch.float32)

    def loss_fn(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        return F.cross_entropy(output[0], target) + F.cross_entropy(output[1], target)

    found = along_gradient(model, loss_fn, ({"image": x}, y), steps=STEPS)
    assert found.start_loss == pytest.approx(value(loss_fn(model({"image": x}), y)), rel=1e-5)
    assert found.batch_size == 12


@pytest.mark.parametrize(
    ("inputs", "target", "expected"),
    [
        (torch.ones(6, 1), None, 6),
        (torch.ones(6, 1), {"mask": None, "y": torch.ones(5, 1)}, 5),
        (torch.ones(6, 1), torch.tensor(0.0), 6),
        (torch.ones(6, 1), [], 6),
    ],
)
def test_batch_size(inputs: Any, target: Any, expected: int) -> None:
    model = nn.Linear(1, 1)
    found = along_gradient(model, lambda out, _: out.sum(), (inputs, target), steps=STEPS)
    assert found.batch_size == expected


def test_channels_last_and_mixed_precision() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)).double()
    batch = (torch.randn(5, 3, 8, 8, dtype=torch.float64), NOTHING)
    expected = along_gradient(plain, lambda out, _: out.square().mean(), batch, steps=STEPS)
    plain.to(memory_format=torch.channels_last)
    found = along_gradient(plain, lambda out, _: out.square().mean(), batch, steps=STEPS)
    assert found.predictiveness == pytest.approx(expected.predictiveness)

    model = two_scalars(2, 1)
    model[0].float()
    cast = nn.Sequential(model[0], Cast(), model[1])
    found = along_gradient(
        cast, lambda out, _: out.square().sum() / 2, (ONE.float(), ZERO), steps=(0.25, 0.5)
    )
    assert found.predictiveness == pytest.approx([math.sqrt(20), math.sqrt(26)], rel=1e-6)


class Cast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.double()


def test_a_stationary_point_has_no_beta() -> None:
    found = along_gradient(Point([0.0]), lambda out, _: out.square().sum(), (NOTHING, NOTHING), steps=STEPS)
    assert found.gradient_norm == 0
    assert found.predictiveness.tolist() == [0, 0, 0]
    assert np.isnan(found.beta).all()
    assert math.isnan(found.effective_beta)


def test_a_loss_that_overflows() -> None:
    found = along_gradient(
        Point([10.0]), lambda out, _: out.exp().exp().sum(), (NOTHING, NOTHING), steps=(1e-9, 1.0)
    )
    assert found.start_loss == math.inf
    assert math.isnan(found.effective_beta)


def test_steps_are_the_results_own() -> None:
    steps = np.array([0.1, 0.2])
    steps.flags.writeable = False
    found = along_gradient(two_scalars(2, 1), lambda out, _: out.sum(), (ONE, ZERO), steps=steps)  # type: ignore[arg-type]
    assert found.steps.flags.writeable
    assert not np.shares_memory(found.steps, steps)


def test_to_frame() -> None:
    found = AlongGradient(
        steps=np.array([0.5, 1.0]),
        start_loss=3.0,
        loss=np.array([2.0, 1.0]),
        gradient_norm=2.0,
        weight_norm=3.0,
        predictiveness=np.array([1.0, 8.0]),
        statistics="batch",
        batch_size=1,
    )
    frame = found.to_frame()
    assert frame.to_dict("list") == {
        "step": [0.5, 1.0],
        "loss": [2.0, 1.0],
        "predictiveness": [1.0, 8.0],
        "beta": [1.0, 4.0],
    }
    assert (found.effective_beta, found.normalised_beta, found.loss_variation) == (4.0, 36.0, 1.0)


def mean(out: Tensor, _: Any) -> Tensor:
    return out.mean()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no-steps": ({"steps": []}, "positive step sizes"),
    "a-number": ({"steps": 0.1}, "positive step sizes, got 0.1"),
    "none": ({"steps": None}, "positive step sizes, got None"),
    "zero": ({"steps": [0.1, 0.0]}, "positive step sizes"),
    "negative": ({"steps": [0.1, -1.0]}, "positive step sizes, got .0.1, -1.0."),
    "nan": ({"steps": [math.nan]}, "positive step sizes"),
    "infinite": ({"steps": [math.inf]}, "positive step sizes"),
    "nested": ({"steps": [[0.1]]}, "positive step sizes"),
    "policy": ({"statistics": "recalibrated"}, "'batch' or 'frozen', got 'recalibrated'"),
    "all-frozen": ({"model": shifted_bn().requires_grad_(False)}, "no parameter that requires a gradient"),
    "no-parameters": ({"model": nn.Flatten()}, "no parameter that requires a gradient"),
    "vector": ({"loss_fn": lambda out, _: out.square().sum(1)}, r"tensor of shape \(12,\)"),
    "number": ({"loss_fn": lambda out, _: out.mean().item()}, "float without a gradient"),
    "detached": ({"loss_fn": lambda out, _: out.mean().detach()}, "a tensor without a gradient"),
    "no-running-statistics": (
        {
            "model": nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False).double()),
            "statistics": "frozen",
        },
        "BN layer '1' has no running statistics",
    ),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_wrong_usage(changes: dict[str, Any], message: str) -> None:
    arguments = {"model": shifted_bn(), "loss_fn": mean, "batch": images(), "steps": STEPS, **changes}
    model = arguments["model"]
    before = look_around(model)
    with pytest.raises(UsageError, match=message):
        along_gradient(**arguments)
    assert look_around(model) == before
