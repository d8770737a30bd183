"""What stands in the place of a batch norm that is gone."""

from collections import OrderedDict

import torch
from torch import nn

from xhat.dataflow import Flow
from xhat.norms import has_torch_forward, is_fixed_norm, replace_
from xhat.surgery._links import norm_op


def remove_(model: nn.Module, flow: Flow, name: str) -> str:
    """Take the normalisation out of the batch norm of that full name; return what stands there now.

    A batch norm becomes the identity. One whose class does more keeps what it does: where that are modules of
    its own, called one after the other, they take its place; else the normalisation is made neutral.
    """
    norm = model.get_submodule(name)
    if has_torch_forward(norm) or is_fixed_norm(norm):
        replace_(model, norm, nn.Identity())
        return ""
    rest = _rest(norm, flow, name)
    if rest is None:
        _neutralise_(norm)
        return f"{type(norm).__name__} stays and normalises with mean 0 and variance 1"
    if not rest:
        replace_(model, norm, nn.Identity())
        return ""
    replace_(model, norm, nn.Sequential(rest))
    return f"{', '.join(rest)} of {type(norm).__name__} stay"


def _rest(norm: nn.Module, flow: Flow, name: str) -> "OrderedDict[str, nn.Module] | None":
    """Return the modules that the norm's calls pass its result through, or None where there is more to it."""
    found: OrderedDict[str, nn.Module] | None = None
    for call in flow.calls[name]:
        op, _ = norm_op(flow, call)
        own = [other for other in flow.ops[call.begin : call.end] if other.call is call]
        if op is None or own != [op] or len(call.outputs) != 1:
            return None
        access, chain = op.made[0], OrderedDict[str, nn.Module]()
        for child in call.children:
            if len(child.inputs) != 1 or len(child.outputs) != 1 or child.inputs[0] != access:
                return None
            key = child.module.removeprefix(f"{name}." if name else "")
            module = norm.get_submodule(key)
            if "." in key or key in chain:
                return None
            if not isinstance(module, nn.Identity):
                chain[key] = module
            access = child.outputs[0]
        if call.outputs[0] != access or (found is not None and list(found) != list(chain)):
            return None
        found = chain
    return found


@torch.no_grad()
def _neutralise_(norm: nn.Module) -> None:
    """Make y = x of a batch norm in evaluation mode, up to one rounding of 1 − ε + ε."""
    values = {"running_mean": 0.0, "running_var": 1.0 - float(norm.eps), "weight": 1.0, "bias": 0.0}  # type: ignore[arg-type]
    for key, value in values.items():
        tensor = getattr(norm, key, None)
        if tensor is not None:
            tensor.fill_(value)
