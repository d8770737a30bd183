"""Which channels differ by more than chance: tests whose rate of false alarms is stated.

Samples are the units (see ``_seen``). Over all channels of all norms at most ``RATE`` of healthy models has even
one channel beyond the bound: Bonferroni's correction, two-sided Student quantiles, normal approximations.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from xhat.doctor._seen import Seen

RATE = 0.01


@dataclass(frozen=True)
class Differing:
    """How far a norm's running statistics are from those of the batches."""

    mean: Tensor  # (C,) difference of means, running − batches', in σ of the batches
    ratio: Tensor  # (C,) running variance over the batches' (unbiased), eps added to both
    beyond: Tensor  # (C,) bool: mean or variance differs by more than chance


@dataclass(frozen=True)
class Running:
    """A norm's running statistics, float64 on the CPU."""

    mean: Tensor  # (C,)
    variance: Tensor  # (C,), unbiased
    eps: float
    momentum: float | None
    tracked: int  # num_batches_tracked, 0 where unknown


def differing(
    seen: Mapping[str, Seen], running: Mapping[str, Running], *, rate: float = RATE
) -> dict[str, Differing]:
    """Compare running statistics with those of the batches, for each norm that has both.

    The standard error holds the chance of both sides: of the batches, by the variance over samples and, where
    batches differ among each other, over batches; of the running statistics, by the share that their average
    leaves of one batch's: momentum/(2 − momentum), or 1 over the number of batches where momentum is None.
    It does not hold that statistics lag behind weights that still move: a rule looks at the outputs too.
    """
    names = [name for name in seen if name in running]
    tests = 2 * sum(len(running[name].mean) for name in names)
    return {name: _differing(seen[name], running[name], rate / (2 * max(tests, 1))) for name in names}


def _differing(seen: Seen, running: Running, tail: float) -> Differing:
    moments = seen.moments()
    variance = moments.variance(unbiased=moments.count > 1)
    biased = moments.variance(unbiased=False)
    count, batches = int(seen.samples.sum()), len(seen.samples)
    of_a, of_q = seen.sample_variances()
    # A channel that rarely speaks may be silent in all samples seen: then the running variance says more.
    alike = torch.where(biased > 0, of_a / biased, 1.0).clamp(max=1.0)
    of_a = torch.maximum(of_a, running.variance.clamp(min=0) * alike)
    rest = _left_of_one_batch(running) * count / float(seen.samples.double().median())
    width = variance + running.eps
    error_mean = of_a / count * (1 + rest)
    error_log = torch.maximum(of_q, 2 * alike * variance.square()) / count * (1 + rest) / width.square()
    if batches > 1:
        within = seen.between()
        # Batches as units, where they differ: their means' mean square has batches − 1 degrees of freedom.
        error_mean = torch.maximum(error_mean, within[0] / count)
    off = running.mean - moments.mean
    ratio = (running.variance + running.eps) / width
    bound = float(stats.t.isf(tail, max(count - 1, 1)))
    by_mean = off.square() > bound**2 * error_mean
    by_variance = (ratio.clamp(min=1e-30).log().square() > bound**2 * error_log) & (variance > 0)
    fit = running.variance.isfinite() & running.mean.isfinite() & (running.variance >= 0)
    return Differing(off / width.sqrt(), ratio, (by_mean | by_variance) & fit)


def _left_of_one_batch(running: Running) -> float:
    """Return the variance of an average of the batches' statistics over that of one batch's."""
    if running.momentum is None:
        return 1 / max(running.tracked, 1)
    return running.momentum / (2 - running.momentum)


def unlike(seen: Mapping[str, Seen], *, rate: float = RATE) -> dict[str, tuple[Tensor, Tensor]]:
    """Return for each norm F, (C,), and whether it is beyond chance, (C,): one-way analysis of variance.

    F = mean square of the samples' means between batches over that within batches; for batches of samples drawn
    at random its mean is near 1.
    """
    tests = sum(len(part.shift) for part in seen.values())
    found = {}
    for name, part in seen.items():
        between, inside, above, below = part.between()
        if above < 1 or below < 1:
            continue
        f = torch.where(inside > 0, between / inside, 0.0)
        found[name] = (f, f > float(stats.f.isf(rate / max(tests, 1), above, below)))
    return found
