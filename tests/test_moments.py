"""Moments of tensors of every shape and dtype, against float64 and against exact fractions."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xhat import moments
from xhat.moments import Moments


def check(found: Moments, x: Tensor, rtol: float = 1e-12) -> None:
    values = x.double().movedim(1, 0).flatten(1)
    assert found.count == values.shape[1]
    torch.testing.assert_close(found.mean, values.mean(1), rtol=rtol, atol=1e-12)
    torch.testing.assert_close(
        found.variance(unbiased=False), values.var(1, correction=0), rtol=rtol, atol=1e-12
    )


SHAPES = [(7, 3), (5, 3, 4), (5, 3, 4, 6), (2, 3, 2, 3, 4), (1, 3, 5), (1, 1)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_and_dtypes(shape, dtype):
    x = (torch.randn(shape) * 3 + 1).to(dtype)
    check(Moments.of(x), x)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "strided"])
def test_layouts_and_many_pieces(layout, monkeypatch):
    monkeypatch.setattr(moments, "_PIECE", 100)
    x = torch.randn(9, 3, 4, 5) + 10
    x = {
        "contiguous": x,
        "channels_last": x.to(memory_format=torch.channels_last),
        "transposed": x.transpose(2, 3),
        "strided": x[::2, :, 1:],
    }[layout]
    before = x.clone()
    check(Moments.of(x), x)
    assert torch.equal(x, before)


def test_float64_is_not_written_to():
    x = torch.randn(4, 2, dtype=torch.float64)
    before = x.clone()
    check(Moments.of(x), x)
    assert torch.equal(x, before)


def test_a_large_mean():
    x = torch.randn(64, 4, 64, 64) + 1e4  # 2²⁰ values: several pieces
    check(Moments.of(x), x, rtol=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=5), min_size=1, max_size=5))
def test_merges_of_any_sizes_are_exact(parts):
    merged = None
    for part in parts:
        one = Moments.of(torch.tensor(part, dtype=torch.float64)[:, None])
        merged = one if merged is None else merged + one
    values = [Fraction(value) for part in parts for value in part]
    mean = sum(values) / len(values)
    assert merged.count == len(values)
    assert float(merged.mean) == pytest.approx(float(mean), rel=1e-12, abs=1e-9)
    assert float(merged.m2) == pytest.approx(float(sum((v - mean) ** 2 for v in values)), rel=1e-12, abs=1e-9)
