"""The noise of [S], Alg. 1: per step and unit μ ~ U(-0.5, 0.5), σ ~ U(1, 1.25), then per sample."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from xhat.models import DistributionNoise

SHAPES = {
    "vector": ((6, 5), None),
    "image": ((6, 5, 4, 3), None),
    "sequence": ((6, 5, 4), None),
    "ensemble": ((2, 5, 6), 2),
}


@pytest.mark.parametrize(("shape", "members"), SHAPES.values(), ids=SHAPES)
def test_shapes_and_evaluation(shape: tuple[int, ...], members: int | None) -> None:
    noise, x = DistributionNoise(5, members=members), torch.randn(shape)
    assert noise(x).shape == x.shape
    assert not torch.equal(noise(x), noise(x))  # each step anew
    state = torch.get_rng_state()
    assert noise.eval()(x) is x
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_stays(dtype: torch.dtype) -> None:
    assert DistributionNoise(5)(torch.ones(3, 5, dtype=dtype)).dtype == dtype


def draws(members: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """m and s of one step, shape (units, samples): at a = 0 the output is m, at a = 1 it is s + m."""
    samples, units = 4000, 300
    noise = DistributionNoise(units, members=members)
    shape = (samples, units) if members is None else (members, units, samples)
    outputs = []
    for value in (0.0, 1.0):
        torch.manual_seed(0)
        out = noise(torch.full(shape, value))
        outputs.append(out.t() if members is None else out.reshape(-1, samples))
    return outputs[0], outputs[1] - outputs[0]


@pytest.mark.parametrize("members", [None, 2])
def test_ranges_of_algorithm_1(members: int | None) -> None:
    shift, scale = draws(members)
    n = shift.shape[1]
    # A unit's mean over n samples lies within 6 standard errors of μ, or of σ.
    mu_error, sigma_error = 6 * 0.2 / math.sqrt(12 * n), 6 * 0.1 / math.sqrt(n)
    mu, sigma = shift.mean(1), scale.mean(1)
    assert mu.abs().max() <= 0.5 + mu_error
    assert sigma.min() >= 1 - sigma_error
    assert sigma.max() <= 1.25 + sigma_error
    # Within a unit: m uniform of width 0.2, s Gaussian of std 0.1.
    assert (shift.amax(1) - shift.amin(1)).max() <= 0.2 + 1e-6
    assert (shift.amax(1) - shift.amin(1)).min() >= 0.19  # P(narrower) = n·0.95^(n-1) ≈ 0
    assert scale.std(1).numpy() == pytest.approx(0.1, rel=6 / math.sqrt(2 * n))


def test_distributions_over_units() -> None:
    shift, scale = draws(None)
    assert stats.kstest(shift.mean(1).numpy(), stats.uniform(-0.5, 1).cdf).pvalue > 1e-3
    assert stats.kstest(scale.mean(1).numpy(), stats.uniform(1, 0.25).cdf).pvalue > 1e-3
    assert stats.kstest(((scale[0] - scale[0].mean()) / 0.1).numpy(), "norm").pvalue > 1e-3
    # Shift and scale are drawn apart, and so are the samples of two units.
    assert abs(np.corrcoef(shift[0].numpy(), scale[0].numpy())[0, 1]) < 5 / math.sqrt(shift.shape[1])
    assert abs(np.corrcoef(shift[0].numpy(), shift[1].numpy())[0, 1]) < 5 / math.sqrt(shift.shape[1])


def test_one_draw_serves_a_whole_feature_map() -> None:
    out = DistributionNoise(5)(torch.ones(6, 5, 4, 3))
    assert torch.equal(out, out[:, :, :1, :1].expand_as(out))
    assert len(out[:, :, 0, 0].unique()) == 30
