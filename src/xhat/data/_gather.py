"""Gather samples from a data set, from batches or from two arrays into one pair of tensors."""

import logging
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from xhat.errors import DataError

logger = logging.getLogger(__name__)

FORMS = (
    "Needed are two tensors (inputs, classes), a torch Dataset of (input, class), a DataLoader or another "
    "iterable of batches (inputs, classes), or a tuple (train, test) of two such."
)


def gather(source: object, limit: int, where: str) -> tuple[Tensor, Tensor]:
    """Return inputs (N, ...) and targets (N,) of the first or, where the length is known, of drawn samples.

    Files are often sorted by class, so from a source of known length above ``limit`` samples are drawn with
    a fixed seed. Other sources are read from their beginning, and no further than one batch past ``limit``.

    Args:
        source: see ``FORMS``, one part only.
        limit: the largest N.
        where: what the source is called in errors and in the log.

    Raises:
        DataError: the source is of another kind, is empty, or its samples differ in shape.
    """
    batches, length = _open(source, limit, where)
    inputs: list[Tensor] = []
    targets: list[Tensor] = []
    count = 0
    for batch in batches:
        x, y = _batch(batch, where)
        if inputs and (x.shape[1:], x.dtype) != (inputs[0].shape[1:], inputs[0].dtype):
            raise DataError(
                f"{where}: sample 0 is {_kind(inputs[0])}, sample {count} is {_kind(x)}. One network takes "
                "all: resize, crop or pad them to one shape and dtype."
            )
        inputs.append(x)
        targets.append(y)
        count += len(x)
        if count > limit:
            break
    if count == 0:
        raise DataError(f"{where} holds no samples. {FORMS}")
    if count > limit or length > limit:
        logger.warning("%s: %d samples of %s are used", where, limit, length or "a longer stream")
    return torch.cat(inputs)[:limit], torch.cat(targets)[:limit]


def is_arrays(source: object) -> bool:
    """Whether the source is two tensors or numpy arrays, and so one whole data set or one batch."""
    return (
        isinstance(source, (tuple, list))
        and len(source) == 2
        and all(isinstance(array, (Tensor, np.ndarray)) for array in source)
    )


def _open(source: object, limit: int, where: str) -> tuple[Iterable[object], int]:
    """Return an iterable of (input, target), single or in batches, and the known length or 0."""
    if is_arrays(source):
        x, y = _batch(source, where)
        source = TensorDataset(x, y)
    if isinstance(source, TensorDataset):
        chosen = _draw(len(source), limit)
        return [tuple(tensor[chosen] for tensor in source.tensors)], len(source)
    if isinstance(source, Dataset) and not isinstance(source, IterableDataset) and hasattr(source, "__len__"):
        length = len(source)
        return (source[i] for i in _draw(length, limit).tolist()), length
    if isinstance(source, (Iterable, Dataset)):
        return _iterate(source), 0
    raise DataError(f"{where} gave a {type(source).__name__}. {FORMS}")


def _iterate(source: Iterable[object] | Dataset[object]) -> Iterator[object]:
    yield from source  # type: ignore[misc]  # a Dataset without a length iterates by __getitem__


def _draw(length: int, limit: int) -> Tensor:
    if length <= limit:
        return torch.arange(length)
    return torch.randperm(length, generator=torch.Generator().manual_seed(0))[:limit].sort().values


def _batch(batch: object, where: str) -> tuple[Tensor, Tensor]:
    """Return inputs (n, ...) and targets (n,); a single sample becomes a batch of one."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        size = f" of {len(batch)}" if isinstance(batch, (tuple, list, dict)) else ""
        raise DataError(f"{where} gave a {type(batch).__name__}{size}, not an (input, class). {FORMS}")
    x, y = _tensor(batch[0], "an input", where), _tensor(batch[1], "a class", where)
    if y.ndim == 0:
        x, y = x[None], y[None]
    if y.ndim != 1 or x.ndim < 2 or len(x) != len(y) or len(y) == 0:
        raise DataError(
            f"{where} gave inputs of shape {tuple(x.shape)} with targets of shape {tuple(y.shape)}. Needed "
            "are inputs (N, features) or (N, C, H, W) and one class for each, (N,): squeeze(1) removes a "
            "dimension of one, argmax(1) makes classes of one-hot rows."
        )
    return x, y


def _tensor(value: object, role: str, where: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu().as_subclass(Tensor)
    if isinstance(value, (int, float, np.ndarray, np.generic)):
        return torch.tensor(value)
    raise DataError(
        f"{where} gave a {type(value).__name__} as {role}; a tensor or a numpy array is needed. For images "
        "add a transform such as torchvision's ToTensor()."
    )


def _kind(x: Tensor) -> str:
    return f"{tuple(x.shape[1:])} {x.dtype}"
