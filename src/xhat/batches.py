"""Run a model on a user's batch, whatever the batch is."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from xhat.errors import DataError, ModelError, UsageError, XhatError
from xhat.trees import cloned, map_tensors

Forward = Callable[[nn.Module, Any], Any]


def run_batch(model: nn.Module, batch: Any, forward: Forward | None = None, *, place: int = 0) -> Any:
    """Return the model's output on one batch, in the mode that the model has; the batch stays as it is.

    The model gets clones, for it may write into its input. ``forward(model, batch)`` is called where it is
    given. Otherwise the batch is moved to the model's device, and: of a tuple or list the first item is the
    input and the rest are targets; a mapping is passed as keyword arguments, an input that is itself a tuple
    as several; anything else as one argument.

    Args:
        model: Any network.
        batch: A tensor, tuple, list, mapping or object.
        forward: Runs the model on the batch.
        place: The batch's number, from 0, for the message.

    Raises:
        ModelError: the model raised, or cannot be called that way; the message names the mode, the batch and
            its shapes, and says what to pass as ``forward`` where the arguments do not fit.
    """
    copy = cloned(batch)
    bound = True
    try:
        if forward is not None:
            return forward(model, copy)
        args, kwargs = arguments_of(copy)
        args, kwargs = to_device((args, kwargs), device_of(model))
        bound = _fits(model, args, kwargs)
        return model(*args, **kwargs)
    except XhatError:
        raise
    except Exception as error:
        mode = "training" if model.training else "evaluation"
        advice = (
            "Mend the model, or pass batches that it takes."
            if bound
            else "Let the data yield only what the model takes, or say in Python how it is called: "
            "forward=lambda model, batch: model(batch['image'])."
        )
        raise ModelError(
            f"{type(model).__name__} failed in {mode} mode on batch {place} ({describe(batch)}): "
            f"{type(error).__name__}: {error}. {advice}"
        ) from error


def _fits(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the model's ``forward`` takes such arguments, by its signature."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # a function without one, as some in C
        return True
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def arguments_of(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments that a batch stands for; targets are left out."""
    if _is_several(batch):
        if not batch:
            raise DataError("a batch is empty; it holds the input first, then targets if there are any")
        first = batch[0]
        return (tuple(first), {}) if _is_several(first) else _one(first)
    return _one(batch)


def _is_several(value: Any) -> bool:
    return isinstance(value, tuple | list) and not isinstance(value, PackedSequence)


def _one(value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(value, Mapping):
        return (), {str(key): item for key, item in value.items()}
    return (value,), {}


def target_of(batch: Any) -> Tensor | None:
    """Return a batch's second item where it is a tensor: what the model is to say."""
    if isinstance(batch, tuple | list) and len(batch) > 1 and isinstance(batch[1], Tensor):
        return batch[1]
    return None


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter or buffer; the CPU where there is none."""
    for tensor in chain(model.parameters(), model.buffers()):  # lazily: asked for at every batch
        return tensor.device
    return torch.device("cpu")


def to_device(tree: Any, device: torch.device) -> Any:
    """Return the tree (containers, data classes or objects that hold tensors) with its tensors on the device."""
    if isinstance(tree, PackedSequence):
        return tree.to(device)  # type: ignore[arg-type]  # its batch sizes stay on the CPU
    if type(tree) in (tuple, list):
        return type(tree)(to_device(part, device) for part in tree)
    if type(tree) is dict:
        return {key: to_device(part, device) for key, part in tree.items()}
    return map_tensors(tree, lambda tensor: tensor.to(device))


def each_batch(batches: Iterable[Any], *, limit: int | None = None) -> Iterator[Any]:
    """Yield the batches, ``limit`` at most.

    Raises:
        UsageError: the limit is not positive, or ``batches`` is one tensor or not iterable.
        DataError: there is not one batch.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit={limit}: at least one batch is needed; None takes all")
    if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
        raise UsageError(
            f"batches is a {type(batches).__name__}; an iterable of batches is needed, such as a DataLoader. "
            "For a single batch write [batch]."
        )
    count = 0
    for batch in batches:
        yield batch
        count += 1
        if count == limit:
            break
    if not count:
        raise DataError("there are no batches: the loader is empty, or an iterator that was used up before")


def can_repeat(batches: Iterable[Any]) -> bool:
    """Whether the batches can be gone through again; an iterator or a generator cannot."""
    return not isinstance(batches, Iterator)  # iter() would start the workers of a DataLoader


def describe(batch: Any) -> str:
    """Return types and shapes of a batch in a few words."""
    if isinstance(batch, Tensor):
        return f"tensor {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return "dict of " + ", ".join(f"{key}: {describe(value)}" for key, value in batch.items())
    if isinstance(batch, tuple | list):
        return f"{type(batch).__name__} of " + ", ".join(map(describe, batch))
    return type(batch).__name__
