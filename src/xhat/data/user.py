"""A user's own data, from a callable named ``module:callable``."""

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from xhat.data._callables import load_callable, user_traceback
from xhat.data._gather import gather, is_arrays
from xhat.data._tensors import TensorData
from xhat.errors import DataError, UsageError

LIMIT = 20_000  # samples
logger = logging.getLogger(__name__)


def user_data(reference: str, *, limit: int = LIMIT, folder: Path | None = None) -> TensorData:
    """Call the user's callable without arguments and hold what it returns as tensors.

    It may return two tensors or arrays (inputs, classes), which are one whole data set; a torch ``Dataset``
    of (input, class); a ``DataLoader`` or another iterable of batches (inputs, classes); or a tuple
    (train, test) of two such, or a list of two data sets or loaders as from ``random_split``. A list of
    batches is an iterable. Without a test part, a fifth of the samples is drawn for it with a fixed seed.

    Inputs are not standardised: that is the loader's business. uint8 inputs are taken for pixels and
    divided by 255, which the log says. torch's, numpy's and Python's generators are seeded while the data
    are read, so that a shuffling loader gives the same samples each time, and put back afterwards.

    Args:
        reference: see ``load_callable``.
        limit: the most samples to take, of train and test each, or of the whole that is split; the log
            says when it cuts. A loader without end is read no further.
        folder: where the user's code lies; the working folder by default.

    Raises:
        UsageError: the reference does not fit (see ``load_callable``), or ``limit`` is below 2.
        ModelError: the module cannot be imported.
        DataError: the callable fails, or returns samples that cannot be used; the message says which.
    """
    if limit < 2:
        raise UsageError(f"limit is {limit}; needed are 2 or more, for training and for test.")
    make = load_callable(reference, folder)
    with _users_code(reference):
        source = make()
        pair = _pair(source)
        names = [f"data {reference!r}{part}" for part in ((" (train)", " (test)") if pair else ("",))]
        parts = [gather(part, limit, name) for part, name in zip(pair or (source,), names, strict=True)]
    sets = [_checked(x, y, name) for (x, y), name in zip(parts, names, strict=True)]
    train, test = sets if pair else _split(*sets[0], names[0])
    cut = any(len(y) >= limit for _, y in sets)
    classes = _count_classes(reference, train[1], test[1], cut=cut)
    return TensorData(reference, *train, *test, classes=classes)


def _pair(source: object) -> tuple[object, object] | None:
    """Return (train, test) if the source is such a pair."""
    if not isinstance(source, (tuple, list)) or len(source) != 2 or is_arrays(source):
        return None
    if isinstance(source, tuple) or all(isinstance(part, (Dataset, DataLoader)) for part in source):
        return source[0], source[1]
    return None


@contextmanager
def _users_code(reference: str) -> Iterator[None]:
    """Run with seeded generators, put them back, and tell of a failure with the user's own frames."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - users' loaders draw from it
    torch.default_generator.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    try:
        yield
    except DataError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(
            f"data {reference!r} failed while they were read; the callable takes no arguments.\n\n"
            f"{user_traceback(error)}"
        ) from error
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])


def _checked(x: Tensor, y: Tensor, where: str) -> tuple[Tensor, Tensor]:
    """Return float32 inputs and int64 targets, or tell what is wrong with them."""
    whole = not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
    if not whole or y.long().min() < 0:
        found = f"as low as {int(y.long().min())}" if whole else str(y.dtype)
        raise DataError(
            f"{where}: targets are {found}; needed are whole numbers 0 to C − 1. Convert classes with "
            ".long(); real-valued targets have no classes."
        )
    if x.dtype == torch.uint8:
        logger.info("%s: uint8 inputs are taken for pixels and divided by 255", where)
        x = x.float() / 255
    if not x.is_floating_point():
        raise DataError(
            f"{where}: inputs are {x.dtype}; needed are floats, or uint8 for pixels. Convert them: pixels "
            "with x.float() / 255, anything else with x.float()."
        )
    bad = int((~x.float().isfinite()).sum())
    if bad:
        raise DataError(
            f"{where}: {bad} of {x.numel()} input values are NaN or infinite in float32. One is enough to "
            "make every loss NaN: drop those samples or fill them."
        )
    return x.float(), y.long()


def _count_classes(reference: str, train: Tensor, test: Tensor, *, cut: bool) -> int:
    """Return C for classes 0 to C − 1; one that does not occur is an error unless the data were cut."""
    learned = set(train.tolist())
    if len(learned) == 1:
        raise DataError(
            f"data {reference!r}: all training samples are of class {learned.pop()}. Nothing can be learned "
            "from a single class: check the targets; if the data are sorted by class, shuffle them."
        )
    present = sorted(learned.union(test.tolist()))
    classes = int(present[-1]) + 1
    if len(present) < classes and not cut:
        gap = next(i for i, label in enumerate(present) if i != label)
        raise DataError(
            f"data {reference!r}: classes run to {classes - 1}, but only {len(present)} of them occur and "
            f"{gap} does not, so that ln C, the loss by chance, would be wrong. Number them 0 to C − 1."
        )
    return classes


def _split(x: Tensor, y: Tensor, where: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return a seeded 80/20 split."""
    if len(x) < 2:
        raise DataError(f"{where}: a single sample cannot be split into train and test; give more.")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    test, train = order.tensor_split([max(1, len(x) // 5)])
    return (x[train], y[train]), (x[test], y[test])
