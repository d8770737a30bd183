"""What one batch norm saw: moments by channel, with the sample as the unit of observation.

The pixels of one image, or the steps of one sequence, are alike, so they do not count as independent values.
Of each sample i and channel two numbers enter: a, the mean over its positions, and q, the mean of squares, both
about a fixed shift. Sums over samples of a, q, a², q² and aq give the pooled mean and variance, and how far
both may be off by chance.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from xhat.moments import Moments

# A mean this many standard deviations off zero leaves float32's sum of squares too few digits.
FAR = 10.0


@dataclass(frozen=True)
class Seen:
    """One batch norm over B batches, with C channels; tensors are float64 on the CPU."""

    values: Tensor  # (B,) values a channel, int64
    samples: Tensor  # (B,) samples, int64; a layer that runs twice in a pass has twice as many
    sums: Tensor  # (B, 5, C) over the batch's samples: a, q, a², q², aq
    shift: Tensor  # (C,) what a and q are about

    def part(self, index: slice) -> "Seen":
        """Return what it saw in some of the batches."""
        return Seen(self.values[index], self.samples[index], self.sums[index], self.shift)

    def moments(self) -> Moments:
        """Return the moments of all values."""
        values = self.values.double()[:, None]
        a, q = (self.sums[:, row] / self.samples[:, None] for row in (0, 1))
        mean = (values * a).sum(0) / values.sum()
        m2 = (values * ((q - a.square()).clamp(min=0) + (a - mean).square())).sum(0)
        return Moments(int(self.values.sum()), mean + self.shift, m2)

    def sample_variances(self) -> tuple[Tensor, Tensor]:
        """Return two variances over samples, unbiased, (C,) each.

        The first is that of the samples' means; the second that of the samples' mean squared distance from
        the overall mean, which is what the variance is a mean of.
        """
        count = int(self.samples.sum())
        a, q, aa, qq, aq = self.sums.sum(0) / count
        off = a  # the overall mean, about the shift
        var_a, var_q, cov = aa - a * a, qq - q * q, aq - a * q
        about_mean = var_q + 4 * off.square() * var_a - 4 * off * cov
        scale = count / max(count - 1, 1)
        return (var_a.clamp(min=0) * scale, about_mean.clamp(min=0) * scale)

    def between(self) -> tuple[Tensor, Tensor, int, int]:
        """Return mean squares of the samples' means between and within batches, and their degrees of freedom."""
        n = self.samples.double()[:, None]
        total, batches = float(n.sum()), len(n)
        a = self.sums[:, 0] / n
        mean = (n * a).sum(0) / total
        between = (n * (a - mean).square()).sum(0) / max(batches - 1, 1)
        inside = (self.sums[:, 2] - n * a.square()).clamp(min=0).sum(0) / max(total - batches, 1)
        return between, inside, batches - 1, int(total) - batches

    def worth(self) -> float:
        """Return how many independent values a batch is worth: the median over batches and channels.

        That is σ²/Var(batch mean) = N·σ²/Var(a): between the samples and the values of a batch.
        """
        of_means, _ = self.sample_variances()
        ratio = self.moments().variance(unbiased=False) / of_means
        ratio = ratio[ratio.isfinite()]
        a_batch = float(self.samples.double().median())
        most = float(self.values.double().median())
        if not len(ratio) or int(self.samples.sum()) < 4:
            return most
        return min(max(a_batch * float(ratio.median()), a_batch), most)


class Collected:
    """Gathers what one batch norm sees, batch by batch."""

    def __init__(self) -> None:
        self.shift: Tensor | None = None
        self._values: list[int] = []
        self._samples: list[int] = []
        self._sums: list[Tensor] = []

    def begin(self) -> None:
        """Start a batch."""
        self._values.append(0)
        self._samples.append(0)
        self._sums.append(torch.zeros(0))

    def add(self, x: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """Take one input, (N, C, …), in; return its mean and biased variance, float64 (C,) on the CPU."""
        a, q = by_sample(x, samples)
        if self.shift is None:
            self.shift = a.mean(0)
        about = a - self.shift
        q = q - 2 * self.shift * about - self.shift.square()
        sums = torch.stack(
            [about.sum(0), q.sum(0), about.square().sum(0), q.square().sum(0), (about * q).sum(0)]
        )
        self._sums[-1] = sums if not self._sums[-1].numel() else self._sums[-1] + sums
        self._values[-1] += x.numel() // x.shape[1]
        self._samples[-1] += len(a)
        mean = about.mean(0)
        return mean + self.shift, (q.mean(0) - mean.square()).clamp(min=0)

    def seen(self) -> Seen | None:
        """Return what was seen; None if some batch did not come by."""
        if self.shift is None or not all(self._samples):
            return None
        return Seen(
            torch.tensor(self._values), torch.tensor(self._samples), torch.stack(self._sums), self.shift
        )


def by_sample(x: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Return mean and mean square over each sample's positions, (N, C) in float64 on the CPU.

    Rows that are several to a sample, as tokens of one text are, become one observation.
    """
    rows = x.detach().reshape(x.shape[0], x.shape[1], -1)
    a, q = _mean_and_square(rows)
    variance = q.mean(0) - a.mean(0).square()
    far = a.mean(0).square() > FAR**2 * variance
    if bool(far.any()) and rows.dtype != torch.float64:
        centre = torch.where(far, a.mean(0), 0.0).to(rows.device, torch.float32)[:, None]
        a, q = _mean_and_square(rows.float() - centre)
        back = centre[:, 0].double().cpu()
        a, q = a + back, q + 2 * back * a + back.square()
    if 0 < samples < len(a) and len(a) % samples == 0:
        a, q = (part.reshape(samples, -1, part.shape[1]).mean(1) for part in (a, q))
    return a, q


def _mean_and_square(rows: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(rows.dtype, torch.float32)
    if rows.shape[2] == 1:
        a = rows[:, :, 0].double().cpu()
        return a, a.square()
    a = rows.mean(2, dtype=wide).double().cpu()
    q = torch.linalg.vector_norm(rows, dim=2, dtype=wide).double().cpu().square() / rows.shape[2]
    return a, q
