"""Count, mean and sum of squared deviations per channel, merged exactly whatever the batches' sizes are."""

from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

# Values that are converted to float64 at a time: 2 MB stay in a core's cache, which makes large inputs 5 to 10
# times faster than in one piece.
_PIECE = 2**18


@dataclass(frozen=True)
class Moments:
    """Moments of a set of values, per channel, in float64.

    Merged by the formula of Chan, Golub and LeVeque, “Updating formulae and a pairwise algorithm for computing
    sample variances” (1979), which never subtracts large sums of squares.
    """

    count: int  # values a channel
    mean: Tensor  # (C,), float64
    m2: Tensor  # (C,), float64: sum of (x − mean)²

    @classmethod
    def of(cls, x: Tensor, *, axis: int = 1) -> "Moments":
        """Return the moments of ``x`` over all axes but the channels' one.

        Args:
            x: (N, C, …), any floating dtype, at least one value a channel.
            axis: The channels' axis.
        """
        x = x.detach()
        if x.device.type == "mps":
            x = x.cpu()  # there is no float64 there
        samples = max(1, _PIECE * len(x) // max(1, x.numel()))
        starts = range(0, max(1, len(x)), samples)
        return reduce(add, (_of_piece(x[start : start + samples], axis) for start in starts))

    def __add__(self, other: "Moments") -> "Moments":
        count = self.count + other.count
        shift = other.mean - self.mean
        share = other.count / count
        return Moments(
            count, self.mean + shift * share, self.m2 + other.m2 + shift.square() * (self.count * share)
        )

    def variance(self, *, unbiased: bool) -> Tensor:
        """Return the variance per channel, (C,); unbiased divides by count − 1, NaN for a single value."""
        return self.m2 / (self.count - 1 if unbiased else self.count)


def _of_piece(x: Tensor, axis: int) -> Moments:
    values = x.movedim(axis, 0).flatten(1).to(torch.float64, copy=True)
    mean = values.mean(1)
    return Moments(values.shape[1], mean, values.sub_(mean[:, None]).square_().sum(1))
