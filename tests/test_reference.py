"""The formula held against closed forms, against torch, and against numeric derivatives."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

from xhat.errors import UsageError
from xhat.reference import ACTIVATIONS, Moments, activation_function, batch_moments, batch_norm, standardize

# What torch says at its own first use of forward-mode AD.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

SHAPES = [(6, 3), (4, 3, 5), (3, 2, 4, 3), (2, 2, 3, 2, 3)]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


# Closed forms


def test_four_numbers() -> None:
    # μ = 3, biased σ² = (4 + 1 + 1 + 4)/4 = 2.5, unbiased 10/3
    x = torch.tensor([[1.0], [2.0], [4.0], [5.0]], dtype=torch.float64)
    mean, var = torch.tensor([10.0], dtype=torch.float64), torch.tensor([20.0], dtype=torch.float64)
    y = batch_norm(x, mean, var, torch.full_like(mean, 2), torch.full_like(mean, 7), True, 0.25, 1.5)
    close(y, torch.tensor([[5.0], [6.0], [8.0], [9.0]], dtype=torch.float64))  # 2 (x − 3)/√(2.5 + 1.5) + 7
    close(mean, torch.tensor([0.75 * 10 + 0.25 * 3], dtype=torch.float64))
    close(var, torch.tensor([0.75 * 20 + 0.25 * 10 / 3], dtype=torch.float64))


def test_evaluation_uses_the_running_statistics_and_leaves_them() -> None:
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    mean, var = torch.tensor([3.0, 1.0], dtype=torch.float64), torch.tensor([3.0, 0.0], dtype=torch.float64)
    y = batch_norm(x, mean, var, eps=1.0)
    close(y, torch.tensor([[-1.0, 1.0]], dtype=torch.float64))
    assert mean.tolist() == [3, 1]
    assert var.tolist() == [3, 0]


@pytest.mark.parametrize("shape", SHAPES)
def test_standardised_values_have_mean_0_and_variance_short_of_1_by_eps(shape: tuple[int, ...]) -> None:
    x = normal(*shape) * 3 + 5
    x_hat, _, var = standardize(x, 0.1)
    moments = batch_moments(x_hat)
    close(moments.mean, torch.zeros_like(var))
    close(moments.var, var / (var + 0.1))
    assert moments.count == math.prod(shape) // shape[1]


def test_gradient_in_closed_form() -> None:
    # dx = γ/σ (g − mean(g) − x̂ mean(g x̂)), dγ = Σ g x̂, dβ = Σ g
    x, g, gamma = normal(8, 3).requires_grad_(), normal(8, 3, seed=1), normal(3, seed=2).requires_grad_()
    beta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    batch_norm(x, None, None, gamma, beta, True, eps=1e-3).backward(g)
    x_hat, _, var = standardize(x.detach(), 1e-3)
    assert x.grad is not None
    close(x.grad, gamma.detach() / (var + 1e-3).sqrt() * (g - g.mean(0) - x_hat * (g * x_hat).mean(0)))
    close(gamma.grad, (g * x_hat).sum(0))
    close(beta.grad, g.sum(0))


def test_merged_moments_are_those_of_all_values() -> None:
    x = normal(10, 3, 4) + 1e3
    merged = batch_moments(x[:3]).merge(batch_moments(x[3:4])).merge(batch_moments(x[4:]))
    whole = batch_moments(x)
    close(merged.mean, whole.mean)
    close(merged.var, whole.var, 1e-10)
    assert merged.count == whole.count == 40
    close(whole.unbiased_var, x.var((0, 2)), 1e-10)


def test_the_unbiased_variance_of_one_value_is_0() -> None:
    assert Moments(torch.zeros(2), torch.zeros(2), torch.tensor(1)).unbiased_var.tolist() == [0, 0]


# torch as the oracle


@st.composite
def cases(draw: st.DrawFn) -> dict[str, object]:
    shape = draw(
        st.lists(st.integers(1, 4), min_size=2, max_size=5).filter(lambda s: math.prod(s) // s[1] > 1)
    )
    return {
        "shape": tuple(shape),
        "dtype": draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])),
        "training": draw(st.booleans()),
        "weight": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "stats": draw(st.booleans()),
        "momentum": draw(st.sampled_from([0.0, 0.1, 0.7, 1.0])),
        "eps": draw(st.sampled_from([1e-5, 1e-3])),
        "activation": draw(st.sampled_from([None, *ACTIVATIONS, ("leaky_relu", 0.3)])),
        "residual": draw(st.booleans()),
        "channels_last": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
    }


# In units of the outputs, which are of order 1. The values share one rounding to the input's dtype.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@settings(deadline=None, max_examples=150)
@given(cases())
def test_agrees_with_torch(case: dict) -> None:
    shape, dtype, seed = case["shape"], case["dtype"], case["seed"]
    x = normal(*shape, seed=seed, dtype=dtype)
    if case["channels_last"] and len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    weight = normal(shape[1], seed=seed + 1) if case["weight"] else None
    bias = normal(shape[1], seed=seed + 2) if case["bias"] else None
    residual = normal(*shape, seed=seed + 3, dtype=dtype) if case["residual"] else None
    stats = (
        [normal(shape[1], seed=seed + 4), normal(shape[1], seed=seed + 5).exp()]
        if case["stats"]
        else [None] * 2
    )
    ours = [None if s is None else s.to(torch.promote_types(dtype, torch.float32)) for s in stats]

    y = batch_norm(
        x, *ours, weight, bias, case["training"], case["momentum"], case["eps"],
        activation=case["activation"], residual=residual,
    )  # fmt: skip

    # Constant channels of float32 are all rounding, hence the oracle runs in float64 on the same inputs.
    expected = F.batch_norm(
        x.double(), *stats, weight, bias, case["training"] or not case["stats"], case["momentum"], case["eps"]
    )
    if residual is not None:
        expected = expected + residual.double()
    function = activation_function(case["activation"])
    expected = expected if function is None else function(expected)

    assert y.dtype == dtype
    assert y.stride() == x.stride()
    close(y.double(), expected, TOLERANCE[dtype])
    for mine, theirs in zip(ours, stats, strict=True):
        if mine is not None:
            close(mine.double(), theirs, TOLERANCE[dtype])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_gradients_agree_with_torch(shape: tuple[int, ...], training: bool) -> None:
    def gradients(function) -> tuple[Tensor, ...]:
        tensors = [
            normal(*shape).requires_grad_(),
            *(normal(shape[1], seed=s).requires_grad_() for s in (1, 2)),
        ]
        x, weight, bias = tensors
        y = function(x, torch.zeros(shape[1]).double(), torch.ones(shape[1]).double(), weight, bias, training)
        return torch.autograd.grad(y, tensors, normal(*shape, seed=3))

    for ours, theirs in zip(gradients(batch_norm), gradients(F.batch_norm), strict=True):
        close(ours, theirs)


def test_an_empty_batch_gives_an_empty_output_and_teaches_nothing() -> None:
    mean, var, weight = torch.zeros(3), torch.ones(3), torch.ones(3, requires_grad=True)
    y = batch_norm(torch.ones(0, 3, 2), mean, var, weight, None, True)
    y.sum().backward()
    assert y.shape == (0, 3, 2)
    assert mean.tolist() == [0] * 3
    assert var.tolist() == [1] * 3
    assert weight.grad.tolist() == [0] * 3


# Accuracy


@pytest.mark.parametrize("mean", [1e4, 1e6])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_large_mean_costs_no_accuracy(mean: float, layout: torch.memory_format) -> None:
    x = (normal(32, 4, 16, 16, dtype=torch.float32) + mean).contiguous(memory_format=layout)
    exact, exact_mean, exact_var = standardize(x.double(), 1e-5)
    x_hat, x_mean, x_var = standardize(x, 1e-5)
    # |x̂| < 6, after a handful of roundings. torch itself: 4e-2 at 1e4, above 1 at 1e6, channels last.
    assert (x_hat - exact).abs().max() < 8 * 6 * 2**-24
    assert ((x_mean - exact_mean) / exact_mean).abs().max() <= 2**-23
    assert ((x_var - exact_var) / exact_var).abs().max() < 8 * 2**-24


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    x, weight = normal(64, 3, 8, dtype=dtype) + 3, normal(3, dtype=torch.float32)
    y = batch_norm(x, None, None, weight, None, True)
    in_float32 = batch_norm(x.float(), None, None, weight, None, True)
    assert torch.equal(y, in_float32.to(dtype))
    assert standardize(x, 1e-5)[0].dtype == torch.float32


def test_half_precision_running_statistics_are_rounded_once() -> None:
    x, mean = normal(64, 3, dtype=torch.float32), normal(3, seed=1, dtype=torch.bfloat16)
    expected = (0.9 * mean.float() + 0.1 * x.mean(0)).to(torch.bfloat16)
    batch_norm(x, mean, torch.ones(3, dtype=torch.bfloat16), training=True)
    assert torch.equal(mean, expected)


# Masks

MASKS = [
    ((6, 3), (6,)),
    ((5, 3, 4), (5,)),
    ((5, 3, 4), (5, 4)),
    ((3, 2, 4, 3), (3, 4, 3)),
    ((4, 2, 2, 2, 2), (4,)),
]


def selected(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The masked-in values as (m, C), and the mask over (N, *)."""
    over = (
        mask.reshape(mask.shape + (1,) * (x.dim() - 1 - mask.dim())).expand(x.shape[:1] + x.shape[2:]).bool()
    )
    return x.movedim(1, -1)[over], over


@pytest.mark.parametrize(("shape", "mask_shape"), MASKS)
@pytest.mark.parametrize("as_float", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_masked_equals_unmasked_on_the_selected_values(
    shape: tuple[int, ...],
    mask_shape: tuple[int, ...],
    as_float: bool,
    training: bool,
    activation: str | None,
) -> None:
    mask = normal(*mask_shape, seed=4) > -0.4
    assert 2 <= mask.sum() < mask.numel()
    x, residual = normal(*shape) + 100, normal(*shape, seed=1)
    g, weight, bias = normal(*shape, seed=2), normal(shape[1], seed=3), normal(shape[1], seed=5)

    def run(x: Tensor, residual: Tensor, g: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        leaves = [t.clone().requires_grad_() for t in (x, residual, weight, bias)]
        stats = [torch.full((shape[1],), 90.0).double(), torch.full((shape[1],), 4.0).double()]
        y = batch_norm(
            leaves[0], *stats, *leaves[2:], training, activation=activation, residual=leaves[1], mask=mask
        )
        return y.detach(), *torch.autograd.grad(y, leaves, g), *stats

    masked = run(x, residual, g, mask.double() if as_float else mask)
    plain = run(selected(x, mask)[0], selected(residual, mask)[0], selected(g, mask)[0], None)
    for ours, theirs in zip(masked[:3], plain[:3], strict=True):  # y, dx, dresidual
        values, over = selected(ours, mask)
        close(values, theirs)
        assert torch.all(ours.movedim(1, -1)[~over] == 0)
    for ours, theirs in zip(masked[3:], plain[3:], strict=True):  # dγ, dβ, running statistics
        close(ours, theirs)


def test_nan_in_the_padding_stays_there() -> None:
    x, residual = normal(4, 3, 5), normal(4, 3, 5, seed=1)
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[1, 2:] = mask[3, 4] = False
    x[1, :, 2:] = residual[1, :, 3:] = math.nan
    x[3, :, 4] = math.inf
    for activation in [None, *ACTIVATIONS]:
        leaves = [
            x.clone().requires_grad_(),
            residual.clone().requires_grad_(),
            torch.ones(3).double().requires_grad_(),
        ]
        y = batch_norm(
            leaves[0],
            None,
            None,
            leaves[2],
            training=True,
            activation=activation,
            residual=leaves[1],
            mask=mask,
        )
        assert y.isfinite().all()
        for gradient in torch.autograd.grad(y.square().sum(), leaves):
            assert gradient.isfinite().all(), activation


def test_a_full_mask_changes_nothing() -> None:
    x = normal(4, 3, 5)
    close(batch_norm(x, training=True, mask=torch.ones(4, 5)), batch_norm(x, training=True))
    assert batch_moments(x, torch.ones(4)).count == 20


def test_standardize_and_moments_take_masks() -> None:
    x, mask = normal(6, 3), torch.tensor([1, 1, 0, 1, 0, 1])
    x_hat, mean, var = standardize(x, 1e-5, mask)
    moments = batch_moments(x, mask)
    kept = x[mask.bool()]
    assert moments.count == 4
    close(mean, kept.mean(0))
    close(moments.mean, mean)
    close(moments.var, kept.var(0, correction=0))
    close(var, moments.var)
    assert torch.all(x_hat[~mask.bool()] == 0)


# Derivatives

X = normal(5, 2, 2) * 2
OTHERS = {"weight": normal(2, seed=1), "bias": normal(2, seed=2), "residual": normal(5, 2, 2, seed=3)}
MASK = torch.tensor([True, True, False, True, True])
FORMS = {
    "training": {"training": True},
    "evaluation": {"running_mean": normal(2, seed=4), "running_var": normal(2, seed=5).exp()},
    "masked": {"training": True, "mask": MASK},
    "eps 0": {"training": True, "eps": 0.0},
    **{name: {"training": True, "activation": name} for name in ACTIVATIONS},
    "slope": {"training": True, "activation": ("leaky_relu", 0.3)},
}


def form(name: str):
    def function(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return batch_norm(x, weight=weight, bias=bias, residual=residual, **FORMS[name])

    return function


@pytest.mark.parametrize("name", FORMS)
def test_first_and_second_derivatives_are_numerically_right(name: str) -> None:
    leaves = tuple(t.clone().requires_grad_() for t in (X, *OTHERS.values()))
    assert torch.autograd.gradcheck(form(name), leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(form(name), leaves)


@pytest.mark.parametrize("name", FORMS)
def test_func_transforms_agree_with_each_other(name: str) -> None:
    def function(x: Tensor) -> Tensor:
        return form(name)(x, *OTHERS.values())

    reverse = jacrev(function)(X)
    close(jacfwd(function)(X), reverse)
    close(torch.autograd.functional.jacobian(function, X), reverse)
    tangent = normal(*X.shape, seed=7)
    y, along = jvp(function, (X,), (tangent,))
    close(y, function(X))
    close(along, torch.einsum("abcxyz,xyz->abc", reverse, tangent))
    close(grad(lambda x: function(x).sum())(X), reverse.sum((0, 1, 2)))


@pytest.mark.parametrize("name", FORMS)
def test_vmap_is_a_loop(name: str) -> None:
    xs = normal(3, *X.shape, seed=8)

    def function(x: Tensor) -> Tensor:
        return form(name)(x, *OTHERS.values())

    close(vmap(function)(xs), torch.stack([function(x) for x in xs]))
    close(vmap(jacrev(function))(xs), torch.stack([jacrev(function)(x) for x in xs]))


def test_vmap_over_masks() -> None:
    masks = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 1, 0, 1]])
    ys = vmap(lambda mask: batch_norm(X, training=True, mask=mask))(masks)
    close(ys, torch.stack([batch_norm(X, training=True, mask=mask) for mask in masks]))


def test_hessian_is_that_of_the_formula() -> None:
    def plain(x: Tensor) -> Tensor:
        y = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
        return (y**4).sum()

    x = normal(4, 2)
    close(hessian(lambda x: (batch_norm(x, training=True) ** 4).sum())(x), hessian(plain)(x), 1e-9)


def test_forward_ad_leaves_no_tangent_in_the_running_statistics() -> None:
    mean, var = torch.zeros(2).double(), torch.ones(2).double()
    with forward_ad.dual_level():
        y = batch_norm(forward_ad.make_dual(X, torch.ones_like(X)), mean, var, training=True)
        assert forward_ad.unpack_dual(y).tangent is not None
        assert forward_ad.unpack_dual(mean).tangent is None
        assert forward_ad.unpack_dual(var).tangent is None
    close(mean, 0.1 * X.mean((0, 2)))


def test_running_statistics_carry_no_graph() -> None:
    mean, var = torch.zeros(2).double(), torch.ones(2).double()
    batch_norm(X.clone().requires_grad_(), mean, var, training=True)
    assert not mean.requires_grad
    assert not var.requires_grad


@pytest.mark.parametrize(
    "transform",
    [lambda f: vmap(f)(X[None]), lambda f: jacrev(f)(X), lambda f: jvp(f, (X,), (X,))],
    ids=["vmap", "jacrev", "jvp"],
)
def test_captured_running_statistics_cannot_be_updated_in_a_transform(transform) -> None:
    # pytorch/pytorch#85533: torch's own layers raise here too, with or without running statistics
    mean, var = torch.zeros(2).double(), torch.ones(2).double()
    with pytest.raises(RuntimeError, match="track_running_stats=False"):
        transform(lambda x: batch_norm(x, mean, var, training=True))
    assert mean.tolist() == [0, 0]


def test_batched_running_statistics_are_updated_under_vmap() -> None:
    xs, means, vars_ = normal(3, *X.shape, seed=8), torch.zeros(3, 2).double(), torch.ones(3, 2).double()
    ys = vmap(lambda x, mean, var: batch_norm(x, mean, var, training=True))(xs, means, vars_)
    close(means, 0.1 * xs.mean((1, 3)))
    close(vars_, 0.9 + 0.1 * xs.var((1, 3)))
    close(ys[1], batch_norm(xs[1], training=True))


def test_other_errors_of_the_update_pass_through() -> None:
    with torch.inference_mode():
        mean, var = torch.zeros(2).double(), torch.ones(2).double()
    with pytest.raises(RuntimeError, match="inference tensor"):
        batch_norm(X, mean, var, training=True)


def test_a_stack_of_layers_trains_under_vmap() -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return batch_norm(x, weight=self.weight, training=True)

    layer, weights = Layer(), normal(3, 2, seed=9)
    gradients = vmap(grad(lambda w: functional_call(layer, {"weight": w}, (X,)).square().sum()))(weights)
    x_hat = standardize(X, 1e-5)[0]
    close(gradients, 2 * weights * x_hat.square().sum((0, 2)))


@pytest.mark.parametrize("mask", [None, MASK])
def test_compiles_without_a_graph_break(mask: Tensor | None) -> None:
    def function(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        return batch_norm(x, mean, var, training=True, activation="relu", mask=mask)

    eager = [torch.zeros(2).double(), torch.ones(2).double()]
    compiled = [t.clone() for t in eager]
    y = torch.compile(function, fullgraph=True, backend="aot_eager")(X, *compiled)
    close(y, function(X, *eager))
    close(compiled[0], eager[0])
    close(compiled[1], eager[1])


# Errors

TRAIN = {"training": True}
ERRORS = {
    "one sample": ((1, 3), TRAIN, ValueError, r"more than 1 value per channel.*\[1, 3\].*drop_last"),
    "one sample, no statistics": ((1, 3, 1), {}, ValueError, "more than 1 value"),
    "mask leaves one": ((4, 3), {**TRAIN, "mask": torch.eye(4)[0]}, ValueError, "leaves 1 per channel"),
    "mask leaves none": ((4, 3, 2), {**TRAIN, "mask": torch.zeros(4, 2)}, ValueError, "leaves 0 per"),
    "one axis": ((3,), TRAIN, ValueError, r"\(N, C\).*\(3,\).*unsqueeze"),
    "weight": ((4, 3), {"weight": torch.ones(4)}, RuntimeError, r"weight should contain 3.*\(4,\)"),
    "bias": ((4, 3), {"bias": torch.ones(3, 1)}, RuntimeError, r"bias should contain 3.*\(3, 1\)"),
    "running": (
        (4, 3),
        {"running_mean": torch.ones(2), "running_var": torch.ones(3)},
        RuntimeError,
        "running_mean should contain 3",
    ),
    "half of the statistics": ((4, 3), {"running_mean": torch.ones(3)}, ValueError, "either both be None"),
    "residual": ((4, 3, 2), {"residual": torch.ones(4, 3, 1)}, ValueError, r"\(4, 3, 1\).*\(4, 3, 2\)"),
    "mask": ((4, 3, 2), {"mask": torch.ones(4, 1, 2)}, ValueError, r"\(4, 1, 2\).*\(4,\) or \(4, 2\)"),
    "eps": ((4, 3), {"eps": -1e-5}, ValueError, "eps must not be negative"),
    "activation": ((4, 3), {"activation": "rellu"}, UsageError, "activation 'rellu'. Did you mean relu"),
    "module": ((4, 3), {"activation": torch.nn.ReLU()}, UsageError, r"activation 'ReLU\(\)'"),
    "slope": ((4, 3), {"activation": ("relu", 0.1)}, UsageError, "activation with a slope 'relu'"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_harm_and_the_remedy(name: str) -> None:
    shape, arguments, kind, words = ERRORS[name]
    with pytest.raises(kind, match=words):
        batch_norm(torch.ones(shape), **arguments)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_input_that_is_not_floating_point(dtype: torch.dtype) -> None:
    with pytest.raises(NotImplementedError, match=r"x\.float\(\)"):
        batch_norm(torch.ones(4, 3, dtype=dtype), training=True)


def test_nothing_is_updated_when_an_argument_is_wrong() -> None:
    mean, var = torch.zeros(3), torch.ones(3)
    with pytest.raises(UsageError):
        batch_norm(torch.randn(4, 3), mean, var, training=True, activation="swish")
    assert mean.tolist() == [0] * 3
    assert var.tolist() == [1] * 3


@pytest.mark.parametrize(
    ("activation", "at_2", "at_minus_2"),
    [
        (None, 2, -2),
        ("relu", 2, 0),
        ("leaky_relu", 2, -0.02),
        (("leaky_relu", 0.5), 2, -1),
        ("silu", 2 / (1 + math.exp(-2)), -2 / (1 + math.exp(2))),
        ("gelu", 1 + math.erf(math.sqrt(2)), -1 + math.erf(math.sqrt(2))),
        ("sigmoid", 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))),
        ("tanh", math.tanh(2), -math.tanh(2)),
        ("hardswish", 2 * 5 / 6, -2 / 6),
    ],
)
def test_activations_are_the_functions_their_names_say(activation, at_2: float, at_minus_2: float) -> None:
    x, ones = torch.tensor([[1.0, -1.0]], dtype=torch.float64), torch.ones(2).double()
    y = batch_norm(x, 0 * ones, ones, 2 * ones, eps=0.0, activation=activation)
    close(y, torch.tensor([[at_2, at_minus_2]], dtype=torch.float64))
