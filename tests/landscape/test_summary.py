"""Summaries of a layer's values equal numpy's, and thinning keeps what it may not lose."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xhat.landscape._summary import MAX_SAMPLES, by_unit, summarise
from xhat.landscape.recording import QUANTILES

LEVELS = np.array(QUANTILES, dtype=np.float32)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 1


@pytest.mark.parametrize(
    ("shape", "last", "axis"),
    [
        ((7, 5), False, 1),
        ((7, 5), True, 1),
        ((7, 5, 4), False, 1),
        ((7, 5, 4, 3), False, 1),
        ((7, 4, 5), True, 2),
    ],
)
def test_units_are_channels_or_the_last_axis(shape: tuple[int, ...], last: bool, axis: int) -> None:
    x = normal(*shape)
    got = by_unit(x, members=None, last=last)
    assert got.shape == (1, 5, x.numel() // 5)
    assert torch.equal(got[0], x.movedim(axis, 0).reshape(5, -1))


@pytest.mark.parametrize(("groups", "of"), [(1, [0] * 6), (2, [0] * 3 + [1] * 3), (6, [0, 1, 2, 3, 4, 5])])
def test_members_of_a_group_share_their_input(groups: int, of: list[int]) -> None:
    x = normal(groups, 3, 4)
    assert torch.equal(by_unit(x, members=6, last=False), x[of])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 60), st.integers(1, 9), st.integers(0, 1000))
def test_numpy_says_the_same(members: int, channels: int, samples: int, units: int, seed: int) -> None:
    x = torch.randn(members, channels, samples, generator=torch.Generator().manual_seed(seed))
    x[:, ::2] = x[:, ::2].relu()
    found, values = summarise(x, quantiles=LEVELS, units=units), x.numpy().astype(np.float64)
    assert found.mean == pytest.approx(values.mean(2), abs=1e-6)
    assert found.std == pytest.approx(values.std(2), abs=1e-6)
    assert found.dead == pytest.approx((np.ptp(values, axis=2) == 0).mean(1))
    flat = values.reshape(members, -1)
    assert found.pooled == pytest.approx(np.quantile(flat, QUANTILES, axis=1).T, abs=1e-4)
    chosen = np.linspace(0, channels - 1, min(units, channels)).round().astype(int)
    expected = np.moveaxis(np.quantile(values[:, chosen], QUANTILES, axis=2), 0, 2)
    assert found.units == pytest.approx(expected, abs=1e-4)


def test_dead_units() -> None:
    x = normal(1, 4, 9)
    x[0, 1], x[0, 3] = 0.0, 5.0
    assert summarise(x, quantiles=LEVELS, units=8).dead.tolist() == [0.5]


@pytest.mark.parametrize("samples", [1024, 1025, 5000, 100 * 28 * 28])
def test_many_samples_are_thinned(samples: int) -> None:
    # A ramp: the p-quantile is p; of n evenly spaced samples it is so to 1/n.
    x = torch.linspace(0, 1, samples).expand(1, 3, -1)
    found = summarise(x, quantiles=LEVELS, units=3)
    assert found.units[0] == pytest.approx(np.broadcast_to(LEVELS, (3, 21)), abs=4 / MAX_SAMPLES)
    assert found.pooled[0] == pytest.approx(LEVELS, abs=4 / MAX_SAMPLES)


@pytest.mark.parametrize("side", [28, 14, 7, 8, 3])
@pytest.mark.parametrize("channels", [1, 16, 64])
def test_thinning_sees_all_of_a_feature_map(side: int, channels: int) -> None:
    # The first column, the border, is 1 and the rest 0: a share of 1/side of all values is 1.
    maps = torch.zeros(256, channels, side, side)
    maps[..., 0] = 1.0
    found = summarise(
        by_unit(maps, members=None, last=False), quantiles=np.linspace(0, 1, 201, dtype=np.float32), units=2
    )
    assert 1 - np.mean(found.pooled[0] < 0.5) == pytest.approx(1 / side, abs=0.02)
    assert 1 - np.mean(found.units[0] < 0.5) == pytest.approx(1 / side, abs=0.02)


@pytest.mark.parametrize("samples", [3, 4, 8, 16])
def test_thinning_sees_all_samples_of_a_wide_layer(samples: int) -> None:
    # Sample 0 is 1 and the rest 0, in each of 4096 units.
    x = torch.zeros(1, 4096, samples)
    x[..., 0] = 1.0
    found = summarise(x, quantiles=np.linspace(0, 1, 201, dtype=np.float32), units=1)
    assert 1 - np.mean(found.pooled[0] < 0.5) == pytest.approx(1 / samples, abs=0.02)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(bad: float) -> None:
    x = normal(2, 3, 10)
    x[1, 0] = bad
    found = summarise(x, quantiles=LEVELS, units=3)
    assert np.isfinite(found.units[0]).all()
    assert np.isfinite(found.mean[0]).all()
    assert not np.isfinite(found.units[1, 0]).all()
    assert not np.isfinite(found.mean[1, 0])


def test_extreme_values_raise_no_warning() -> None:
    x = torch.tensor([[[-3e38, 3e38, 0.0]]])
    summarise(x, quantiles=LEVELS, units=1)
