"""Find and replace the tensors in nested tuples, lists, dicts, data classes and objects."""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def tensors_in(tree: Any) -> list[Tensor]:
    """Return all tensors in a tree, in the order of its parts; one that is held twice comes twice."""
    return list(_walk(tree, {}))


def _walk(tree: Any, seen: dict[int, Any]) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
        return
    parts = _parts(tree)
    if parts is None or id(tree) in seen:
        return
    seen[id(tree)] = tree  # alive, so that its id is not used again
    found = False
    for part in parts:
        for tensor in _walk(part, seen):
            found = True
            yield tensor
    if found:  # else it stays, or objects that hold each other would be gone through on every way
        del seen[id(tree)]


def _parts(tree: Any) -> list[Any] | None:
    if isinstance(tree, Mapping):
        return list(tree.values())
    if isinstance(tree, tuple | list | set | frozenset):
        return list(tree)
    if type(tree).__module__ == "builtins" or isinstance(tree, nn.Module) or callable(tree):
        return None
    return [getattr(tree, name) for name in _names(tree)]


def _names(tree: Any) -> list[str]:
    """Return the names of an object's own attributes."""
    slots = [vars(kind).get("__slots__", ()) for kind in type(tree).__mro__]
    names = [name for some in slots for name in ([some] if isinstance(some, str) else some)]
    attributes = getattr(tree, "__dict__", None)
    names += attributes if isinstance(attributes, dict) else ()
    return [name for name in dict.fromkeys(names) if not name.startswith("__") and hasattr(tree, name)]


def map_tensors(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return the tree with each tensor replaced; its containers are new, other leaves the same objects.

    An object without a tensor in it is a leaf.
    """
    return _mapped(tree, change, {})


def _mapped(tree: Any, change: Callable[[Tensor], Tensor], done: dict[int, Any]) -> Any:
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, tuple):
        parts = [_mapped(part, change, done) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if isinstance(tree, set | frozenset):
        return type(tree)(_mapped(part, change, done) for part in tree)
    if id(tree) in done:
        return done[id(tree)]  # objects may hold each other
    if not isinstance(tree, list | dict) and not tensors_in(tree):
        return tree  # many kinds of objects cannot be copied
    new = done[id(tree)] = copy.copy(tree)  # keeps the kind: OrderedDict, defaultdict, a library's own
    if isinstance(tree, list):
        new[:] = [_mapped(part, change, done) for part in tree]
    elif isinstance(tree, dict):
        for key, part in tree.items():
            new[key] = _mapped(part, change, done)
    else:
        for name in _names(tree):
            object.__setattr__(new, name, _mapped(getattr(tree, name), change, done))
    return new


def cloned(tree: Any) -> Any:
    """Return the tree with its tensors cloned and detached, so that a model may write into them."""
    return map_tensors(tree, lambda tensor: tensor.detach().clone())


def to_dtype(tree: Any, dtype: torch.dtype) -> Any:
    """Return the tree with its real floating tensors in another dtype."""
    return map_tensors(tree, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
