"""Take samples out of batches, and make batches of samples from several ones."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from xhat.trees import map_tensors, tensors_in


def samples_in(batch: Any) -> int | None:
    """Return how many samples a batch has: the first axis of its first tensor; None where it has none."""
    return next((len(tensor) for tensor in tensors_in(batch) if tensor.dim()), None)


def take(batch: Any, index: Tensor) -> Any | None:
    """Return a batch of some of the samples: of all tensors whose first axis is the batch's.

    None where that cannot be: the batch is of a kind whose inside is not known.
    """
    samples = samples_in(batch)
    if samples is None or not _is_open(batch):
        return None
    if not any(_is_by_sample(tensor, samples) for tensor in tensors_in(batch)):
        return None
    return map_tensors(
        batch, lambda tensor: tensor[index.to(tensor.device)] if _is_by_sample(tensor, samples) else tensor
    )


def _is_open(tree: Any) -> bool:
    """Whether a batch is made of containers and data classes; other objects may hold their samples in any way."""
    if isinstance(tree, PackedSequence):
        return False
    if isinstance(tree, Mapping):
        return all(map(_is_open, tree.values()))
    if isinstance(tree, tuple | list):
        return all(map(_is_open, tree))
    if is_dataclass(tree) and not isinstance(tree, type):
        return all(_is_open(getattr(tree, part.name)) for part in fields(tree))
    return isinstance(tree, Tensor) or not tensors_in(tree)


# Of each batch its number and which of its samples.
Picks = list[tuple[int, Tensor]]


def mixed(
    batches: Sequence[Any], count: int, *, seed: int = 0
) -> tuple[tuple[Any, ...], tuple[Picks, ...]] | None:
    """Return up to ``count`` batches, sized as the first ones, of samples drawn from all batches at random.

    That is what a loader that shuffles would have given; beside them, where their samples are from, in their
    order. None where samples do not fit into one batch, as images of several sizes do not.
    """
    sizes = [samples_in(batch) or 0 for batch in batches]
    if not all(sizes):
        return None
    owner = torch.repeat_interleave(torch.arange(len(batches)), torch.tensor(sizes))
    inside = torch.cat([torch.arange(size) for size in sizes])
    order = torch.randperm(len(owner), generator=torch.Generator().manual_seed(seed))
    made: list[Any] = []
    sources: list[Picks] = []
    end = 0
    for size in sizes[:count]:
        part = order[end : end + size]
        end += size
        chosen = ((place, inside[part[owner[part] == place]]) for place in range(len(batches)))
        picks = [(place, index) for place, index in chosen if len(index)]
        joined = _joined([take(batches[place], index) for place, index in picks])
        if joined is None:
            return None
        made.append(joined)
        sources.append(picks)
    return tuple(made), tuple(sources)


def picked(outputs: Sequence[Sequence[Tensor]], picks: Picks) -> list[Tensor]:
    """Return the outputs of a mixed batch's samples, by those of the batches that they are from."""
    parts = [[tensor[index] for tensor in outputs[place]] for place, index in picks]
    return [torch.cat(together) for together in zip(*parts, strict=True)]


def _joined(parts: Sequence[Any]) -> Any | None:
    sizes = [samples_in(part) for part in parts]
    flat = [tensors_in(part) for part in parts]
    if not parts or not all(sizes) or any(len(tensors) != len(flat[0]) for tensors in flat):
        return None
    tensors = []
    for together in zip(*flat, strict=True):
        if not all(_is_by_sample(tensor, size or -1) for tensor, size in zip(together, sizes, strict=True)):
            tensors.append(together[0])
            continue
        if any(tensor.shape[1:] != together[0].shape[1:] for tensor in together):
            return None
        tensors.append(torch.cat(together))
    left = iter(tensors)
    return map_tensors(parts[0], lambda _: next(left))


def _is_by_sample(leaf: Any, samples: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == samples
