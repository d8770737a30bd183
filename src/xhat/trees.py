"""Find and replace the tensors in nested tuples, lists, dicts, data classes and objects."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def tensors_in(tree: Any) -> list[Tensor]:
    """Return all tensors in a tree, in the order of its parts; one that is held twice comes twice."""
    return list(_walk(tree, set()))


def _walk(tree: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
        return
    parts = _parts(tree)
    if parts is None or id(tree) in seen:
        return
    seen.add(id(tree))
    for part in parts:
        yield from _walk(part, seen)
    seen.discard(id(tree))


def _parts(tree: Any) -> list[Any] | None:
    if isinstance(tree, Mapping):
        return list(tree.values())
    if isinstance(tree, tuple | list | set | frozenset):
        return list(tree)
    if isinstance(tree, nn.Module | type) or callable(tree):
        return None
    if dataclasses.is_dataclass(tree):
        return [getattr(tree, field.name, None) for field in dataclasses.fields(tree)]
    if type(tree).__module__ != "builtins" and isinstance(getattr(tree, "__dict__", None), dict):
        return list(vars(tree).values())
    return None


def map_tensors(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return the tree with each tensor replaced; its containers are new, other leaves the same objects."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, tuple):
        parts = [map_tensors(part, change) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if isinstance(tree, list | set | frozenset):
        return type(tree)(map_tensors(part, change) for part in tree)
    if isinstance(tree, dict):
        new = copy.copy(tree)  # keeps the kind: OrderedDict, defaultdict, a library's own
        for key, part in tree.items():
            new[key] = map_tensors(part, change)
        return new
    if _parts(tree) is None:
        return tree
    new = copy.copy(tree)
    for name, part in list(vars(tree).items()):
        object.__setattr__(new, name, map_tensors(part, change))
    return new


def cloned(tree: Any) -> Any:
    """Return the tree with its tensors cloned and detached, so that a model may write into them."""
    return map_tensors(tree, lambda tensor: tensor.detach().clone())


def to_dtype(tree: Any, dtype: torch.dtype) -> Any:
    """Return the tree with its real floating tensors in another dtype."""
    return map_tensors(tree, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
