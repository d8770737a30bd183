"""Standardize: one fit, any batching, and a module like any other."""

import copy
import pickle
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from xhat.errors import DataError, ModelError, UsageError
from xhat.nn import Standardize
from xhat.reference import batch_norm


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(12, 3, 4, 5, generator=generator) * torch.tensor([1.0, 5, 0.1])[:, None, None] + 7
    ).to(dtype)


def test_three_numbers() -> None:
    # μ = 3, biased σ² = (4 + 0 + 4)/3
    module = Standardize.fit(torch.tensor([[1.0], [3.0], [5.0]], dtype=torch.float64), eps=4 / 3)
    assert module.mean.tolist() == [3]
    assert module.var.tolist() == pytest.approx([8 / 3])
    assert module.count == 3
    assert module(torch.tensor([[5.0], [7.0]], dtype=torch.float64)).flatten().tolist() == pytest.approx(
        [1, 2]
    )


@pytest.mark.parametrize(("per", "dims"), [("channel", (0, 2, 3)), ("feature", (0,))])
def test_statistics_are_per_channel_or_per_feature(per: str, dims: tuple[int, ...]) -> None:
    x = images(torch.float64)
    module = Standardize.fit(x, per=per, eps=1e-8)
    var, mean = torch.var_mean(x, dims, correction=0)
    torch.testing.assert_close(module.mean, mean)
    torch.testing.assert_close(module.var, var)
    assert module.count == x.numel() // mean.numel()
    y = module(x)
    torch.testing.assert_close(y.mean(dims), torch.zeros_like(mean), atol=1e-12, rtol=0)
    torch.testing.assert_close(y.var(dims, correction=0), torch.ones_like(var), atol=1e-5, rtol=0)


def test_it_is_the_formula_of_batch_norm() -> None:
    x = images()
    torch.testing.assert_close(Standardize.fit(x)(x), batch_norm(x, training=True))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 9), max_size=8),
    st.sampled_from(["channel", "feature"]),
    st.sampled_from([0.0, 1e6]),
)
def test_any_batching_gives_the_same_statistics(cuts: list[int], per: str, mean: float) -> None:
    x = torch.randn(9, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + mean
    bounds = [0, *sorted(cuts), 9]
    whole = Standardize.fit(x, per=per)
    merged = Standardize.fit([x[a:b] for a, b in pairwise(bounds)], per=per)
    assert merged.count == whole.count
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-15, atol=1e-15)
    # At mean 1e6 means are rounded to 1e-10, and their differences enter the variance.
    torch.testing.assert_close(merged.var, whole.var, rtol=1e-9, atol=0)


def batches(x: Tensor) -> dict[str, object]:
    targets = torch.arange(len(x))
    return {
        "tensor": x,
        "list of tensors": [x[:5], x[5:]],
        "pairs": [(x[:5], targets[:5]), (x[5:], targets[5:])],
        "lists": [[x[:5], targets[:5]], [x[5:], targets[5:]]],
        "loader": DataLoader(TensorDataset(x, targets), batch_size=5),
        "generator": (part for part in x.split(1)),
        "requires grad": x.clone().requires_grad_(),
    }


@pytest.mark.parametrize("kind", batches(images()))
def test_kinds_of_data(kind: str) -> None:
    module, whole = Standardize.fit(batches(images())[kind]), Standardize.fit(images())
    torch.testing.assert_close(module.mean, whole.mean)
    torch.testing.assert_close(module.var, whole.var)
    assert module.mean.dtype == torch.float32
    assert not module.mean.requires_grad


def test_a_float32_mean_of_1e6_is_fitted_to_the_last_digit() -> None:
    x = images() + 1e6
    module = Standardize.fit(x)
    torch.testing.assert_close(
        module.var.double(), x.double().var((0, 2, 3), correction=0), rtol=2**-23, atol=0
    )


def test_constant_features_do_not_blow_up() -> None:
    x = torch.full((1000, 2), 0.1)
    module = Standardize.fit(x.split(7))
    assert module(x).abs().max() < 1e-4
    assert module(x + 1).abs().max() < 1.001 / module.eps**0.5  # 1/√ε a unit at most


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integers_come_back_as_floats(dtype: torch.dtype) -> None:
    x = torch.randint(0, 2, (50, 3)).to(dtype)
    y = Standardize.fit(x)(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.mean(0), torch.zeros(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_output_has_the_dtype_of_the_input(dtype: torch.dtype) -> None:
    assert Standardize.fit(images())(images(dtype)).dtype == dtype


def test_half_precision_data_is_fitted_in_float32_or_better() -> None:
    assert Standardize.fit(images(torch.float16)).mean.dtype == torch.float32
    assert Standardize.fit(images(torch.float64)).mean.dtype == torch.float64


# A module like any other


def test_state_dict_round_trip() -> None:
    fitted, fresh = Standardize.fit(images(), per="feature"), Standardize((3, 4, 5))
    assert set(fitted.state_dict()) == {"mean", "var", "count"}
    fresh.load_state_dict(fitted.state_dict())
    assert torch.equal(fresh(images()), fitted(images()))
    outer = nn.Sequential(Standardize(3))
    outer.load_state_dict({f"0.{k}": v for k, v in Standardize.fit(images()).state_dict().items()})
    assert outer(images()).shape == (12, 3, 4, 5)


def test_loading_an_unfitted_state_leaves_it_unfitted() -> None:
    fitted = Standardize.fit(images())
    fitted.load_state_dict(Standardize(3).state_dict())
    with pytest.raises(ModelError):
        fitted(images())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_fitted_and_separate(copied) -> None:
    module = Standardize.fit(images())
    other = copied(module)
    assert torch.equal(other(images()), module(images()))
    module.mean.add_(1)
    assert not torch.equal(other(images()), module(images()))
    other.load_state_dict(Standardize(3).state_dict())  # the hook belongs to the copy
    assert module(images()).isfinite().all()


def test_to_moves_the_buffers() -> None:
    module = Standardize.fit(images()).to(torch.float64)
    assert module.mean.dtype == module.var.dtype == torch.float64
    assert module.count.dtype == torch.int64
    assert module(images()).dtype == torch.float32
    assert Standardize.fit(images()).to("meta")(images().to("meta")).device.type == "meta"
    assert Standardize(3, device="meta", dtype=torch.float64).mean.dtype == torch.float64


def test_training_changes_nothing_and_gradients_pass() -> None:
    module = Standardize.fit(images()).train()
    before = copy.deepcopy(module.state_dict())
    x = images().requires_grad_()
    module(x).sum().backward()
    expected = torch.rsqrt(module.var + module.eps).reshape(1, 3, 1, 1).expand_as(x)
    torch.testing.assert_close(x.grad, expected)
    assert list(module.parameters()) == []
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_repr_says_whether_it_is_fitted() -> None:
    assert repr(Standardize(3)) == "Standardize((3,), eps=1e-05, unfitted)"
    assert repr(Standardize.fit(images(), eps=1e-8)) == "Standardize((3,), eps=1e-08)"


# Errors


def test_unfitted_use() -> None:
    with pytest.raises(ModelError, match=r"not fitted.*Standardize\.fit"):
        Standardize(3)(images())


BAD = {
    "empty": ([], DataError, "empty, or an iterator already used up"),
    "no values": (torch.ones(0, 3), DataError, "no values"),
    "channels": ([torch.ones(4, 3), torch.ones(4, 2)], DataError, r"\(4, 2\) after one of shape \(4, 3\)"),
    "one axis": (torch.ones(4), DataError, r"\(N, C, \*\)"),
    "nan": (torch.tensor([[1.0, 2.0], [1.0, float("nan")]]), DataError, r"not finite in 1 of 2.*\[1\]"),
    "dicts": ([{"image": torch.ones(4, 3)}], TypeError, "type dict"),
    "empty tuple": ([()], TypeError, "type tuple"),
    "dataset": (TensorDataset(torch.ones(4, 3)), TypeError, r"TensorDataset.*single samples.*DataLoader"),
}


@pytest.mark.parametrize("name", BAD)
def test_data_that_cannot_be_fitted(name: str) -> None:
    data, kind, words = BAD[name]
    with pytest.raises(kind, match=words):
        Standardize.fit(data)


def test_per_feature_takes_one_shape_of_sample() -> None:
    parts = [torch.ones(2, 3, 4), torch.ones(2, 3, 5)]
    assert Standardize.fit(parts).count == 18
    with pytest.raises(DataError, match="per feature"):
        Standardize.fit(parts, per="feature")


def test_wrong_arguments() -> None:
    with pytest.raises(UsageError, match="Did you mean channel"):
        Standardize.fit(images(), per="channels")
    with pytest.raises(ValueError, match="eps must be positive"):
        Standardize.fit(images(), eps=0.0)
    with pytest.raises(ValueError, match=r"\(12, 2, 4, 5\) does not fit statistics of shape \(3,\)"):
        Standardize.fit(images())(images()[:, :2])
    with pytest.raises(ValueError, match="does not fit"):
        Standardize.fit(images(), per="feature")(images()[:, :, :, :4])
