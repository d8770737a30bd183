"""Standardise images of whole-numbered pixels."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xhat.errors import DataError

Pixels = NDArray[np.uint8]


def standardise(name: str, train: Pixels, test: Pixels, *, top: int = 255) -> tuple[Tensor, Tensor]:
    """Return (p/top − μ)/σ with one μ and one σ (biased) per channel, both from the training images.

    Sums of whole numbers are exact and each of the few pixel values is mapped once, in float64, so that
    every machine gets the same float32 bits and hence the same digest.

    Args:
        name: what the data are called, for errors.
        train: training pixels 0 to ``top``, (N, C, H, W).
        test: test pixels, as ``train`` with its own N.
        top: the pixel value that means 1.

    Raises:
        DataError: all training pixels of a channel are the same, so that σ = 0.
    """
    results = tuple(torch.empty(part.shape, dtype=torch.float32) for part in (train, test))
    values = np.arange(top + 1, dtype=np.int64)
    for channel in range(train.shape[1]):
        counts = np.bincount(train[:, channel].ravel(), minlength=top + 1)
        total = int(counts.sum())
        first, second = int(counts @ values), int(counts @ values**2)
        spread = total * second - first**2  # (total·top·σ)², exact
        if spread == 0:
            raise DataError(
                f"data {name!r}: all training pixels of channel {channel} have the value {first // total}, "
                "so they cannot be standardised and hold nothing to learn from. Check the files."
            )
        mapped = ((values * total - first) / math.sqrt(spread)).astype(np.float32)
        for part, result in zip((train, test), results, strict=True):
            result[:, channel] = torch.from_numpy(mapped[part[:, channel]])
    return results[0], results[1]
