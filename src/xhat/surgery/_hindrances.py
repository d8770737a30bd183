"""Why a module must not be touched: something else looks into it, holds it, or computes what it holds."""

from collections.abc import Iterable, Iterator
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from xhat.dataflow import Flow, module_name
from xhat.lang import Name, say

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OF_TORCH = frozenset(vars(nn.Module()))  # attributes in which torch keeps a module's parts and hooks
_HOLDERS = (nn.Module, MethodType, dict, list, tuple, set, frozenset)


def hindrance(model: nn.Module, flow: Flow, name: str) -> str | None:
    """Return why the module of that full name must be left as it is, or None.

    Args:
        model: The model that the flow was recorded of.
        flow: One run.
        name: A module's full name, the first one where it has several.
    """
    module = model.get_submodule(name)
    called = Name(name) if name else say("the model")
    if isinstance(module, torch.jit.ScriptModule):
        return say("{module} is scripted", module=called)
    if parametrize.is_parametrized(module):
        return say(
            "{module} has parametrizations, which compute its weights anew at every call", module=called
        )
    if has_hooks(module):
        return say("{module} has hooks of others, which may read or change what it computes", module=called)
    if "forward" in vars(module):
        return say("{module} has a forward method of its own, set on the module", module=called)
    own = {full for full, other in model.named_modules(remove_duplicate=False) if other is module}
    for parameter, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        full = f"{name}.{parameter}" if name else parameter
        for names in flow.parameters.values():
            if full in names and (others := [n for n in names if n.rpartition(".")[0] not in own]):
                return say(
                    "{module}.{parameter} is also {other}",
                    module=called,
                    parameter=Name(parameter),
                    other=Name(others[0]),
                )
        readers = {reader for reader in flow.readers_of_parameter(full) if not _inside(reader, own)}
        if readers:
            return say(
                "{module}.{parameter} is read by {reader} too",
                module=called,
                parameter=Name(parameter),
                reader=module_name(min(readers)),
            )
    return None


def has_hooks(module: nn.Module) -> bool:
    """Whether anybody has registered a hook on the module."""
    return any(getattr(module, name, None) for name in _HOOKS)


def held_aside(model: nn.Module) -> dict[str, str]:
    """Return modules in whose place another one cannot be put everywhere, by full name, with the reason.

    A list, a dict, a bound method or an unregistered module holds them besides, and would go on to.
    """
    names = {id(module): name for name, module in model.named_modules()}
    found: dict[str, str] = {}
    for holder_name, holder in model.named_modules():
        for attribute, value in vars(holder).items():
            if attribute in _OF_TORCH or not isinstance(value, _HOLDERS):
                continue
            place = Name(f"{holder_name}.{attribute}" if holder_name else attribute)
            for name in _held_in(value, names, set()):
                reason = say("{place} holds it too, where it could not be replaced", place=place)
                found.setdefault(name, reason)
    return found


def _held_in(value: Any, names: dict[int, str], seen: set[int]) -> Iterator[str]:
    """Yield the full names of registered modules that a value holds, itself or through others that are not."""
    if id(value) in names:
        yield names[id(value)]
        return
    if not isinstance(value, _HOLDERS) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, MethodType):
        parts: Iterable[Any] = (value.__self__,)
    elif isinstance(value, nn.Module):
        parts = vars(value).values()
    else:
        parts = (*value.keys(), *value.values()) if isinstance(value, dict) else value
    for part in parts:
        yield from _held_in(part, names, seen)


def watched_by(model: nn.Module, flow: Flow, value: int) -> str | None:
    """Return the full name of a module with hooks of others to which a value is shown, or None."""
    for name, calls in flow.calls.items():
        if has_hooks(model.get_submodule(name)) and any(
            access.value == value for call in calls for access in (*call.inputs, *call.outputs)
        ):
            return name
    return None


def _inside(name: str, own: set[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in own)
