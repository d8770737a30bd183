import math

import numpy as np
import pytest
from scipy import stats

from xhat.study.curves import ARM_NAMES, mean_curve, range_curve, spaced

X = (0.0, 1.0, 2.0, 3.0)
ROWS = np.random.default_rng(1).lognormal(size=(5, 4))


def scipys(sample: np.ndarray) -> tuple[float, float, float]:
    low, high = stats.t.interval(0.95, len(sample) - 1, loc=sample.mean(), scale=stats.sem(sample))
    return float(sample.mean()), low, high


def points(curve) -> np.ndarray:
    return np.array([curve.y, curve.low, curve.high]).T


@pytest.mark.parametrize("log", [False, True])
def test_means_and_bands_are_scipys_at_every_point(log):
    curve = mean_curve("name", "batch", X, list(ROWS), log=log)
    values = np.log(ROWS) if log else ROWS
    expected = np.array([scipys(column) for column in values.T])
    np.testing.assert_allclose(points(curve), np.exp(expected) if log else expected, rtol=1e-12)
    assert (curve.name, curve.arm, curve.x) == ("name", "batch", X)


@pytest.mark.parametrize("log", [False, True])
def test_values_that_are_not_finite_are_left_out_point_by_point(log):
    rows = ROWS.copy()
    rows[0, 1], rows[1, 1], rows[:, 2], rows[1:, 3] = np.nan, np.inf, np.nan, -np.inf
    curve = mean_curve("name", "batch", X, list(rows), log=log)
    take = np.log if log else np.asarray
    back = math.exp if log else float
    np.testing.assert_allclose(points(curve)[1], [back(v) for v in scipys(take(rows[2:, 1]))], rtol=1e-12)
    assert np.isnan(points(curve)[2]).all()
    assert curve.y[3] == pytest.approx(rows[0, 3])
    assert np.isnan([curve.low[3], curve.high[3]]).all()


def test_a_logarithm_takes_no_zero_and_no_negative_number():
    curve = mean_curve("name", "batch", (0.0,), [np.array([v]) for v in (4.0, 9.0, 0.0, -1.0)], log=True)
    assert curve.y[0] == pytest.approx(6.0)


def test_a_band_may_be_too_wide_for_a_float():
    curve = mean_curve("name", "batch", (0.0,), [np.array([1e-300]), np.array([1e300])], log=True)
    assert curve.y[0] == pytest.approx(1.0)
    assert (curve.low[0], curve.high[0]) == (0.0, math.inf)


def test_equal_seeds_have_a_band_without_width():
    curve = mean_curve("name", "batch", (0.0,), [np.array([2.5])] * 4)
    assert (curve.y, curve.low, curve.high) == ((2.5,), (2.5,), (2.5,))


def test_a_range_is_the_mean_of_its_ends():
    curve = range_curve(
        "r", "none", (0, 1), [np.array([0.0, 1]), np.array([2.0, 3])], [np.array([4.0, 9])] * 2
    )
    assert (curve.low, curve.y, curve.high) == ((1.0, 2.0), (2.5, 5.5), (4.0, 9.0))
    assert curve.x == (0.0, 1.0)


@pytest.mark.parametrize(
    ("steps", "count", "expected"),
    [(10, 2, (0, 9)), (10, 4, (0, 3, 6, 9)), (3, 10, (0, 1, 2)), (1, 5, (0,)), (10, 1, (0,))],
)
def test_spaced_steps(steps, count, expected):
    assert spaced(steps, count) == expected


def test_every_arm_of_the_claims_has_a_name():
    assert set(ARM_NAMES) >= {"batch", "none", "layer", "group"}
