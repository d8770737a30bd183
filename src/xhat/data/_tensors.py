"""A data set held in memory: four tensors, their number of classes and their digest."""

import hashlib
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from xhat.errors import DataError, UsageError


@dataclass(frozen=True, repr=False)
class TensorData:
    """Training and test samples as tensors; two of them are equal when their digests are.

    The sets that xhat ships are standardised images (see ``xhat.data.standardise``); users' own come as
    their loader gave them, of any sample shape. The tensors are shared: do not change them in place.

    Attributes:
        name: what the data are called, as in ``xhat.data.load``.
        train_x: training inputs, float32, (N, C, H, W) or (N, features).
        train_y: training classes, int64, (N,), values 0 to ``classes`` − 1.
        test_x: test inputs, as ``train_x`` with its own N.
        test_y: test classes, as ``train_y`` with its own N.
        classes: number of classes.
        digest: sha256 (hex) over dtype, shape and bytes of the four tensors, computed here.

    Raises:
        DataError: a tensor has another dtype, shape or range than stated above.
    """

    name: str
    train_x: Tensor = field(compare=False)
    train_y: Tensor = field(compare=False)
    test_x: Tensor = field(compare=False)
    test_y: Tensor = field(compare=False)
    classes: int
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        for part, x, y in (("train", self.train_x, self.train_y), ("test", self.test_x, self.test_y)):
            if x.dtype != torch.float32 or y.dtype != torch.int64 or x.ndim < 2 or y.shape != x.shape[:1]:
                raise DataError(
                    f"data {self.name!r}: {part} came as inputs {_describe(x)} and targets {_describe(y)}; "
                    "needed are float32 inputs (N, ...) and int64 targets (N,) with the same N."
                )
            if len(y) == 0 or y.min() < 0 or y.max() >= self.classes:
                span = f"targets {int(y.min())} to {int(y.max())}" if len(y) else "no samples"
                raise DataError(f"data {self.name!r}: {part} has {span}; needed are 0 to {self.classes - 1}.")
        if self.train_x.shape[1:] != self.test_x.shape[1:]:
            raise DataError(
                f"data {self.name!r}: a training sample has shape {tuple(self.train_x.shape[1:])}, a test "
                f"sample {tuple(self.test_x.shape[1:])}. One network takes both: give them one shape."
            )
        object.__setattr__(self, "digest", _digest(self.train_x, self.train_y, self.test_x, self.test_y))

    def __repr__(self) -> str:
        return (
            f"TensorData({self.name!r}, train {tuple(self.train_x.shape)}, test {tuple(self.test_x.shape)}, "
            f"{self.classes} classes, digest {self.digest[:12]})"
        )

    def subset(self, train: int | None = None, test: int | None = None) -> "TensorData":
        """Return the first samples, as many of each class, in their order; None keeps a part whole.

        Where the count does not divide by the classes, the lower classes get one more; where a class has
        too few, the others fill up. A smaller subset is contained in a larger one.

        Args:
            train: number of training samples to keep.
            test: number of test samples to keep.

        Raises:
            UsageError: a count is below 1 or above what is there.
        """
        train_kept = self._first("train", self.train_y, train)
        test_kept = self._first("test", self.test_y, test)
        return TensorData(
            self.name,
            self.train_x[train_kept],
            self.train_y[train_kept],
            self.test_x[test_kept],
            self.test_y[test_kept],
            self.classes,
        )

    def pooled(self, factor: int) -> "TensorData":
        """Return the images averaged over squares of ``factor`` pixels: (N, C, H/factor, W/factor).

        The mean stays 0, the standard deviation falls below 1: the result is not standardised again.

        Raises:
            UsageError: the data are not images, or ``factor`` does not divide their height and width.
        """
        shape = tuple(self.train_x.shape[1:])
        if len(shape) != 3 or factor < 1 or shape[1] % factor or shape[2] % factor:
            raise UsageError(
                f"data {self.name!r}: samples of shape {shape} cannot be pooled by {factor}. Needed are "
                "images (C, H, W) and a factor that divides H and W, else border pixels would be lost."
            )
        return self._with_inputs(F.avg_pool2d(self.train_x, factor), F.avg_pool2d(self.test_x, factor))

    def between_0_and_1(self) -> "TensorData":
        """Return the inputs moved and scaled, all by the same two numbers, so that training spans [0, 1].

        Of standardised images that makes p/top again, where both the darkest and the brightest pixel occur.
        """
        low, high = self.train_x.min(), self.train_x.max()
        return self._with_inputs((self.train_x - low) / (high - low), (self.test_x - low) / (high - low))

    def flat(self) -> "TensorData":
        """Return the data with each input as one row: (N, features)."""
        return self._with_inputs(self.train_x.flatten(1), self.test_x.flatten(1))

    def _with_inputs(self, train_x: Tensor, test_x: Tensor) -> "TensorData":
        return TensorData(self.name, train_x, self.train_y, test_x, self.test_y, self.classes)

    def _first(self, part: str, y: Tensor, count: int | None) -> Tensor:
        if count is None:
            return torch.arange(len(y))
        if not 1 <= count <= len(y):
            raise UsageError(f"data {self.name!r}: {count} {part} samples asked for; 1 to {len(y)} can be.")
        order = y.argsort(stable=True)
        sizes = y.bincount(minlength=self.classes)
        first = sizes.cumsum(0) - sizes  # where each class begins in ``order``
        rank = torch.empty_like(y)  # 0 for the first sample of its class, 1 for the second, ...
        rank[order] = torch.arange(len(y)) - first[y[order]]
        return (rank * self.classes + y).argsort()[:count].sort().values


def _describe(x: Tensor) -> str:
    return f"{tuple(x.shape)} {x.dtype}"


def _digest(*tensors: Tensor) -> str:
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().numpy().data)
    return total.hexdigest()
