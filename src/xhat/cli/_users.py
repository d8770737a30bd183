"""A user's model, weights and batches, as the commands on one's own network take them."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.markup import escape
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from xhat.batches import can_repeat
from xhat.cli._shared import errors
from xhat.cli._weights import load_weights_
from xhat.data import load_callable, user_traceback
from xhat.errors import DataError, ModelError, XhatError
from xhat.lang import Translate

BATCH_SIZE = 64  # of a data set that comes without a loader


def load_model(reference: str, weights: Path | None = None, _: Translate = str) -> nn.Module:
    """Call the user's callable without arguments, and put the weights into the network that it returns.

    Args:
        reference: ``module:callable``.
        weights: a ``.safetensors`` file, or one that ``torch.save`` wrote; None leaves the network as it is.
        _: says in the user's language which part of the file was taken, where it was not the whole.

    Raises:
        UsageError: the reference does not fit, or there is no such file.
        ModelError: the callable fails or returns no ``nn.Module``, or the weights are not those of the network.
    """
    model = _called(reference, "model", ModelError)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model {reference!r} returned a {type(model).__name__}; a network is needed, an nn.Module."
        )
    if weights is not None:
        for note in load_weights_(model, weights):
            errors.print(escape(_(note)), soft_wrap=True, highlight=False)
    return model


def load_batches(reference: str) -> Iterable[Any]:
    """Call the user's callable without arguments and return batches.

    A ``DataLoader``, a list of batches or any other iterable is passed through as it is. A data set, or two
    tensors or arrays (inputs, targets), is put into batches of 64, in an order that is drawn once with a fixed
    seed, since files are often sorted by class and BN wants mixed batches. Of a tuple (train, test), or a list
    of two data sets or loaders, the training part is taken.

    Raises:
        UsageError: the reference does not fit.
        DataError: the callable fails, or returns what has no batches.
    """
    source = _training_part(_called(reference, "data", DataError))
    if _is_arrays(source):
        source = TensorDataset(_inputs(source[0]), torch.as_tensor(source[1]))
    if isinstance(source, IterableDataset):
        return DataLoader(source, batch_size=BATCH_SIZE)
    if isinstance(source, Dataset):
        length = len(source)  # type: ignore[arg-type]
        order = torch.randperm(length, generator=torch.Generator().manual_seed(0)).tolist()
        return DataLoader(Subset(source, order), batch_size=BATCH_SIZE)
    if isinstance(source, Tensor | str | bytes | dict) or not isinstance(source, Iterable):
        raise DataError(
            f"data {reference!r} returned a {type(source).__name__}; needed is a DataLoader, a list of batches, "
            "a torch Dataset, two tensors (inputs, targets), or a tuple (train, test) of two such."
        )
    return _watched(source, reference)


class _Batches:
    """Batches whose failures are told as the user's own; they can be gone through again."""

    def __init__(self, source: Iterable[Any], reference: str) -> None:
        self._source, self._reference = source, reference

    def __iter__(self) -> Iterator[Any]:
        return _told(self._source, self._reference)

    def __len__(self) -> int:
        return len(self._source)  # type: ignore[arg-type]  # a TypeError where it has none, as of itself


def _watched(source: Iterable[Any], reference: str) -> Iterable[Any]:
    if isinstance(source, list | tuple):
        return source  # which cannot fail
    return _Batches(source, reference) if can_repeat(source) else _told(source, reference)


def _told(source: Iterable[Any], reference: str) -> Iterator[Any]:
    count = 0
    try:
        for batch in source:
            yield batch
            count += 1
    except GeneratorExit:
        raise
    except Exception as failure:
        raise DataError(
            f"data {reference!r} failed at batch {count}, counted from 0.\n\n{user_traceback(failure)}"
        ) from failure


def _called(reference: str, kind: str, error: type[XhatError]) -> Any:
    make: Callable[..., Any] = load_callable(reference)
    try:
        return make()
    except (Exception, SystemExit) as failure:
        raise error(
            f"{kind} {reference!r} failed; it is called without arguments.\n\n{user_traceback(failure)}"
        ) from failure


def _training_part(source: Any) -> Any:
    pair = isinstance(source, tuple | list) and len(source) == 2 and not _is_arrays(source)
    if pair and (isinstance(source, tuple) or all(isinstance(part, Dataset | DataLoader) for part in source)):
        return source[0]
    return source


def _inputs(array: Tensor | np.ndarray[Any, Any]) -> Tensor:
    """Return inputs as networks take them, by the same rules as ``user_data``: uint8 are pixels."""
    x = torch.as_tensor(array)
    return x.float() / 255 if x.dtype == torch.uint8 else x.float() if isinstance(array, np.ndarray) else x


def _is_arrays(source: Any) -> bool:
    """Whether the source is a whole data set as (inputs, targets); a list of two tensors is two batches."""
    return (
        isinstance(source, tuple)
        and len(source) == 2
        and all(isinstance(array, Tensor | np.ndarray) for array in source)
    )
