"""What stands in the place of a batch norm that is gone."""

from collections import OrderedDict

import torch
from torch import nn

from xhat.dataflow import Flow
from xhat.lang import Name, say
from xhat.norms import has_torch_forward, is_fixed_norm, replace_
from xhat.surgery._norm_ops import norm_op
from xhat.surgery._refused import Refused


def remove_(model: nn.Module, flow: Flow, name: str, *, instead: nn.Module | None = None) -> str:
    """Take the normalisation out of the batch norm of that full name; return what of its class stays.

    A batch norm becomes the identity. One whose class does more keeps what it does: where that are modules of
    its own, called one after the other, they take its place; else the normalisation is made neutral.

    Args:
        model: The model, changed in place.
        flow: A run of it.
        name: The norm's full name.
        instead: What takes the place of the normalisation, in place of the identity.

    Raises:
        Refused: the norm's class cannot be taken apart, and something is to take the normalisation's place.
    """
    norm = model.get_submodule(name)
    rest = rest_of(norm, flow, name)
    kind = Name(type(norm).__name__)
    if rest is None:
        if instead is not None:
            raise Refused(cannot_be_taken_apart(norm))
        _neutralise_(norm)
        return say("{kind} stays and normalises with mean 0 and variance 1", kind=kind)
    modules = ([("affine", instead)] if instead is not None else []) + list(rest.items())
    if len(modules) > 1 or rest:
        replace_(model, norm, nn.Sequential(OrderedDict(modules)))
    else:
        replace_(model, norm, instead if instead is not None else nn.Identity())
    return say("{modules} of {kind} stay", modules=Name(", ".join(rest)), kind=kind) if rest else ""


def cannot_be_taken_apart(norm: nn.Module) -> str:
    """Return the reason that stands for a norm of which ``rest_of`` is None."""
    kind = Name(type(norm).__name__)
    return say("{kind} does more than normalise, and cannot be taken apart", kind=kind)


def rest_of(norm: nn.Module, flow: Flow, name: str) -> "OrderedDict[str, nn.Module] | None":
    """Return the modules that the norm's calls pass its result through, or None where there is more to it."""
    if has_torch_forward(norm) or is_fixed_norm(norm):
        return OrderedDict()
    found: OrderedDict[str, nn.Module] | None = None
    for call in flow.calls[name]:
        op, _ = norm_op(flow, call)
        # memory that is made without reading, as torch's own batch norm does, is nothing that the class adds
        own = [other for other in flow.ops[call.begin : call.end] if other.call is call and other.reads]
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
