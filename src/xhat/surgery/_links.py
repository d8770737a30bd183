"""Which batch norm and which convolution or linear layer belong together, by what a run did."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from xhat.dataflow import Access, Call, Flow, Op, Use
from xhat.norms import has_torch_forward, is_fixed_norm
from xhat.surgery._arithmetic import (
    Layer,
    absorb_behind_,
    absorb_in_front_,
    channels_out,
    is_layer,
    scale_and_shift,
    spatial_dims,
)
from xhat.surgery._hindrances import hindrance, watched_by

_OPS = frozenset(
    {
        "batch_norm",
        "native_batch_norm",
        "cudnn_batch_norm",
        "miopen_batch_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
        "_batch_norm_no_update",
        "_batch_norm_with_update",
        "batch_norm_elemt",
    }
)
_TRAINING = 5  # position of “training” among the arguments
_LAYER_FORWARDS = {
    kind.forward
    for kind in (
        nn.Conv1d,
        nn.Conv2d,
        nn.Conv3d,
        nn.ConvTranspose1d,
        nn.ConvTranspose2d,
        nn.ConvTranspose3d,
        nn.Linear,
    )
}


class Refused(Exception):  # noqa: N818 - it is a reason, found and listed
    """Why a batch norm and a layer do not belong together."""


@dataclass(frozen=True)
class Link:
    """A batch norm, and a layer that can take it over."""

    norm: str  # full name
    layers: tuple[str, ...]  # full names; one for “behind”
    side: Literal["behind", "in front"]  # where the norm stands, seen from the layer
    # behind: (norm's channels,), the layer's output channel that each is; in front: by layer (its input channels,),
    # the norm's channel that each is
    channels: tuple[Tensor, ...]
    lays_out: bool = False  # whether the order in memory that the norm gave its result is needed


def norm_op(flow: Flow, call: Call, *, fixed: bool = True) -> tuple[Op | None, Access]:
    """Return the operation with which a batch norm normalises in a call, and the tensor that it normalises.

    A batch norm of constant statistics has no such operation, but multiplies and adds.

    Args:
        flow: A run.
        call: One of a batch norm's calls in it.
        fixed: Whether it must normalise with its running statistics.

    Raises:
        Refused: it normalises several times, or against ``fixed`` with the batch's statistics.
    """
    ops = [op for op in flow.ops[call.begin : call.end] if op.name in _OPS and op.call.is_within(call)]
    if len(ops) != 1 or not ops[0].reads:
        if not ops and call.inputs:
            return None, call.inputs[0]
        raise Refused("its class normalises several times in a call")
    op = ops[0]
    if fixed and takes_batch_statistics(op):
        raise Refused("it normalises with the batch's statistics, in evaluation mode too")
    return op, op.reads[0]


def takes_batch_statistics(op: Op) -> bool:
    """Whether an operation of batch norm normalises with the statistics of its input."""
    return "no_" not in op.name and len(op.arguments) > _TRAINING and bool(op.arguments[_TRAINING])


def norm_ops(
    flow: Flow, model: nn.Module, name: str, *, fixed: bool = True
) -> list[tuple[Op | None, Access]]:
    """Return the same for all calls of the batch norm of that full name.

    Raises:
        Refused: also where it was not called, or normalises in an unknown way.
    """
    if name not in flow.calls:
        raise Refused("the example inputs did not reach it")
    reads = [norm_op(flow, call, fixed=fixed) for call in flow.calls[name]]
    if any(op is None for op, _ in reads) and not is_fixed_norm(model.get_submodule(name)):
        raise Refused("its class normalises in a way that is not known")
    return reads


def find_link(model: nn.Module, flow: Flow, name: str, *, fixed: bool = True) -> Link:
    """Return the layer that can take over the batch norm of that full name, exactly.

    Args:
        model: The model that the flow was recorded of.
        flow: A run in evaluation mode.
        name: The norm's full name.
        fixed: Whether it must normalise with its running statistics.

    Raises:
        Refused: there is none; the message says why.
    """
    norm = model.get_submodule(name)
    reads = norm_ops(flow, model, name, fixed=fixed)
    if why := hindrance(model, flow, name):
        raise Refused(why)
    try:
        return _behind(model, flow, name, reads)
    except Refused as behind:
        if not (has_torch_forward(norm) or is_fixed_norm(norm)):
            raise
        try:
            return _in_front(model, flow, name)
        except Refused:
            raise behind from None


def _behind(model: nn.Module, flow: Flow, name: str, reads: list[tuple[Op | None, Access]]) -> Link:
    sources = [flow.source_of(access) for _, access in reads]
    source = sources[0]
    where = source.name + (f" in {source.call.module}" if source.call and source.call.module else "")
    if source.kind != "module" or source.call is None:
        inside = source.call.module if source.call else ""
        if is_layer(model.get_submodule(inside)) and (why := hindrance(model, flow, inside)):
            raise Refused(why)
        words = {"input": "the model's input", "parameter": f"the parameter {source.name}"}
        made = words.get(source.kind, where if source.kind == "function" else "something that was not seen")
        raise Refused(f"its input comes from {made}, not from one convolution or linear layer alone")
    layer_name, layer = source.name, model.get_submodule(source.name)
    if not is_layer(layer):
        raise Refused(f"its input comes from {layer_name}, a {type(layer).__name__}")
    if other := next((s for s in sources if s.call is None or s.call.module != layer_name), None):
        raise Refused(f"it is called {len(sources)} times, behind {layer_name} and behind {other.name}")
    if why := hindrance(model, flow, layer_name):
        raise Refused(why)
    made_by = {id(source.call) for source in sources}
    calls = flow.calls[layer_name]
    if len(made_by) < len(calls):
        raise Refused(
            f"{layer_name} is called {len(calls)} times, and this batch norm stands behind {len(made_by)}"
        )
    channels: Tensor | None = None
    for output in (source.access for source in sources):
        at = output_axis(layer, output)
        if watcher := watched_by(model, flow, output.value):
            raise Refused(f"hooks of others on {watcher} see what {layer_name} computes")
        for use in flow.uses_of(output):
            if not is_normalised(flow, use, name, reads):
                raise Refused(f"{layer_name} also reaches {use.where}")
            found = constant_by_channel(flow.labels(output, at, use), 1)
            if found is None or (channels is not None and not torch.equal(found, channels)):
                raise Refused(f"its channels are not the outputs of {layer_name}: another axis is normalised")
            channels = found
        _refuse_overwritten(flow, output, f"what {layer_name} computes")
    if channels is None:
        raise Refused(f"what {layer_name} computes was not seen to be normalised")
    if len(set(channels.tolist())) < len(channels):
        raise Refused(f"several of its channels are the same output of {layer_name}")
    return Link(name, (layer_name,), "behind", (channels,))


def is_normalised(flow: Flow, use: Use, name: str, reads: list[tuple[Op | None, Access]]) -> bool:
    """Whether a use is that one of the norm's calls normalises the tensor."""
    if use.op is None or use.call is None or use.in_place:
        return False
    for (op, access), call in zip(reads, flow.calls[name], strict=True):
        if op is use.op or (op is None and use.call is call and use.access == access):
            return True
    return False


def _in_front(model: nn.Module, flow: Flow, name: str) -> Link:
    found: dict[str, Tensor] = {}
    reached: dict[str, set[int]] = {}
    for call in flow.calls[name]:
        for given in call.inputs:
            _refuse_overwritten(flow, given, "its input")
        for out in call.outputs:
            if (watcher := watched_by(model, flow, out.value)) and watcher != name:
                raise Refused(f"hooks of others on {watcher} see what it computes")
            for use in flow.uses_of(out):
                layer_name, channels = _front_use(model, flow, out, use)
                if layer_name in found and not torch.equal(found[layer_name], channels):
                    raise Refused(f"{layer_name} takes its channels in two orders")
                found[layer_name] = channels
                reached.setdefault(layer_name, set()).add(id(use.call))
    if not found:
        raise Refused("nothing uses its output")
    for layer_name, calls in reached.items():
        if len(calls) < len(flow.calls[layer_name]):
            raise Refused(f"{layer_name} is called with other inputs too")
        if why := hindrance(model, flow, layer_name):
            raise Refused(why)
    return Link(name, tuple(found), "in front", tuple(found.values()))


def _front_use(model: nn.Module, flow: Flow, out: Access, use: Use) -> tuple[str, Tensor]:
    layer = model.get_submodule(use.call.module) if use.call else None
    if layer is None or use.call is None or not is_layer(layer) or use.in_place or not use.call.inputs:
        raise Refused(f"its output reaches {use.where}")
    if type(layer).forward not in _LAYER_FORWARDS:
        raise Refused(f"{use.call.module} is a {type(layer).__name__}, whose forward is its own")
    if not _takes_shift(layer):
        raise Refused(f"{use.call.module} pads with zeros")
    given = use.call.inputs[0]
    path = tuple(op for op in use.path if op.index < use.call.begin)
    axis = len(given.size) - 1 - spatial_dims(layer)
    channels = constant_by_channel(flow.labels_along(out, 1, path, given), axis)
    if channels is None or bool((channels < 0).any()):
        raise Refused(f"its channels are not the inputs of {use.call.module}")
    return use.call.module, channels


def _refuse_overwritten(flow: Flow, given: Access, what: str) -> None:
    """Refuse where the norm's input is overwritten later: without the norm, its output would be too."""
    for op in flow.ops:
        if given.value in op.in_place:
            raise Refused(
                f"{what} is changed in place by {op.name} in {op.call.module or 'the model itself'}"
            )


def _takes_shift(layer: Layer) -> bool:
    """Whether a constant added to the input of each channel adds a constant to each output."""
    if isinstance(layer, nn.Linear):
        return True
    if isinstance(layer, _ConvTransposeNd):  # else border outputs have fewer addends
        return (
            all(size == 1 for size in (*layer.kernel_size, *layer.stride))
            and not any(layer.output_padding)
            and not any(layer.padding)
        )
    assert isinstance(layer, _ConvNd)
    return layer.padding_mode != "zeros" or not any(layer._reversed_padding_repeated_twice)


def constant_by_channel(labels: Tensor, axis: int) -> Tensor | None:
    """Return the one label of each channel, or None where a channel has several or an unknown one."""
    if not labels.numel() or labels.dim() <= axis:
        return None
    by_channel = labels.movedim(axis, 0).flatten(1)
    first = by_channel[:, 0]
    if bool((by_channel != first[:, None]).any()) or bool((first < 0).any()):
        return None
    return first


def output_axis(layer: Layer, output: Access) -> int:
    """Return the axis of the channels in what a layer computes."""
    return len(output.size) - 1 - spatial_dims(layer)


def check_finite(norm: nn.Module) -> None:
    """Refuse a batch norm whose map in evaluation mode is not finite."""
    for tensor in scale_and_shift(norm):
        if not bool(torch.isfinite(tensor).all()):
            raise Refused("its statistics or parameters are not finite, or a variance is negative")


def absorb_(model: nn.Module, link: Link) -> None:
    """Let a link's layers take over its norm's map; the norm itself stays where it is."""
    scale, shift = scale_and_shift(model.get_submodule(link.norm))
    for name, given in zip(link.layers, link.channels, strict=True):
        layer, channels = model.get_submodule(name), given.to(scale.device)
        assert is_layer(layer)
        if link.side == "in front":
            absorb_in_front_(layer, scale[channels], shift[channels])
            continue
        by_output = torch.ones(channels_out(layer), dtype=torch.float64, device=scale.device)
        added = torch.zeros_like(by_output)  # outputs that the norm does not see keep 1 and 0
        by_output[channels], added[channels] = scale, shift
        absorb_behind_(layer, by_output, added)
