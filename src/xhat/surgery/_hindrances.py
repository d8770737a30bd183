"""Why a module must not be touched: something else looks into it, or computes what it holds."""

import torch
from torch import nn
from torch.nn.utils import parametrize

from xhat.dataflow import Flow

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def hindrance(model: nn.Module, flow: Flow, name: str) -> str | None:
    """Return why the module of that full name must be left as it is, or None.

    Args:
        model: The model that the flow was recorded of.
        flow: One run.
        name: A module's full name, the first one where it has several.
    """
    module = model.get_submodule(name)
    if isinstance(module, torch.jit.ScriptModule):
        return f"{name or 'the model'} is scripted"
    if parametrize.is_parametrized(module):
        return f"{name} has parametrizations, which compute its weights anew at every call"
    if has_hooks(module):
        return f"{name} has hooks of others, which may read or change what it computes"
    if "forward" in vars(module):
        return f"{name} has a forward method of its own, set on the module"
    own = {full for full, other in model.named_modules(remove_duplicate=False) if other is module}
    for parameter, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        full = f"{name}.{parameter}" if name else parameter
        for names in flow.parameters.values():
            if full in names and (others := [n for n in names if n.rpartition(".")[0] not in own]):
                return f"its {parameter} is also {others[0]}"
        readers = {reader for reader in flow.readers_of_parameter(full) if not _inside(reader, own)}
        if readers:
            return f"its {parameter} is read by {min(readers) or 'the model itself'} too"
    return None


def has_hooks(module: nn.Module) -> bool:
    """Whether anybody has registered a hook on the module."""
    return any(getattr(module, name, None) for name in _HOOKS)


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
