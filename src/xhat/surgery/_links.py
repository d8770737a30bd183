"""Which batch norm and which convolution or linear layer belong together, by what a run did."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from xhat.dataflow import Access, Flow, Op, Source, Use, module_name
from xhat.lang import Name, say
from xhat.norms import has_torch_forward, is_fixed_norm
from xhat.surgery._arithmetic import is_layer, spatial_dims, takes_shift
from xhat.surgery._channels import constant_by_channel, output_axis
from xhat.surgery._hindrances import hindrance, watched_by
from xhat.surgery._norm_ops import is_normalised, norm_ops
from xhat.surgery._refused import Refused

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
    if source.kind != "module" or source.call is None:
        inside = source.call.module if source.call else ""
        if is_layer(model.get_submodule(inside)) and (why := hindrance(model, flow, inside)):
            raise Refused(why)
        raise Refused(
            say(
                "its input comes from {source}, not from one convolution or linear layer alone",
                source=_words_of(source),
            )
        )
    called, layer = module_name(source.name), model.get_submodule(source.name)
    if not is_layer(layer):
        kind = Name(type(layer).__name__)
        raise Refused(
            say(
                "its input comes from {module} of class {kind}, no convolution or linear layer",
                module=called,
                kind=kind,
            )
        )
    if other := next((s for s in sources if s.call is None or s.call.module != source.name), None):
        raise Refused(
            say(
                "it is called {count} times, behind {layer} and behind {other}",
                count=len(sources),
                layer=called,
                other=_words_of(other),
            )
        )
    if why := hindrance(model, flow, source.name):
        raise Refused(why)
    made_by = {id(source.call) for source in sources}
    calls = flow.calls[source.name]
    if len(made_by) < len(calls):
        raise Refused(
            say(
                "{layer} is called {calls} times, and this batch norm stands behind {count}",
                layer=called,
                calls=len(calls),
                count=len(made_by),
            )
        )
    channels: Tensor | None = None
    for output in (source.access for source in sources):
        at = output_axis(layer, output)
        if watcher := watched_by(model, flow, output.value):
            raise Refused(
                say(
                    "hooks of others on {watcher} see what {layer} computes",
                    watcher=Name(watcher),
                    layer=called,
                )
            )
        for use in flow.uses_of(output):
            if not is_normalised(flow, use, name, reads):
                if use.in_place:
                    raise _changed(say("what {layer} computes", layer=called), use.where)
                raise Refused(say("{layer} also reaches {place}", layer=called, place=use.where))
            found = constant_by_channel(flow.labels(output, at, use), 1)
            if found is None or (channels is not None and not torch.equal(found, channels)):
                raise Refused(
                    say(
                        "its channels are not the outputs of {layer}: another axis is normalised",
                        layer=called,
                    )
                )
            channels = found
        _refuse_overwritten(flow, output, say("what {layer} computes", layer=called))
    if channels is None:
        raise Refused(say("what {layer} computes was not seen to be normalised", layer=called))
    if len(set(channels.tolist())) < len(channels):
        raise Refused(say("several of its channels are the same output of {layer}", layer=called))
    return Link(name, (source.name,), "behind", (channels,))


def _in_front(model: nn.Module, flow: Flow, name: str) -> Link:
    found: dict[str, Tensor] = {}
    reached: dict[str, set[int]] = {}
    for call in flow.calls[name]:
        for given in call.inputs:
            _refuse_overwritten(flow, given, say("its input"))
        for out in call.outputs:
            if (watcher := watched_by(model, flow, out.value)) and watcher != name:
                raise Refused(
                    say("hooks of others on {watcher} see what it computes", watcher=module_name(watcher))
                )
            for use in flow.uses_of(out):
                layer_name, channels = _front_use(model, flow, out, use)
                if layer_name in found and not torch.equal(found[layer_name], channels):
                    raise Refused(
                        say("{layer} takes its channels in two orders", layer=module_name(layer_name))
                    )
                found[layer_name] = channels
                reached.setdefault(layer_name, set()).add(id(use.call))
    if not found:
        raise Refused(say("nothing uses its output"))
    for layer_name, calls in reached.items():
        if len(calls) < len(flow.calls[layer_name]):
            raise Refused(say("{layer} is called with other inputs too", layer=module_name(layer_name)))
        if why := hindrance(model, flow, layer_name):
            raise Refused(why)
    return Link(name, tuple(found), "in front", tuple(found.values()))


def _front_use(model: nn.Module, flow: Flow, out: Access, use: Use) -> tuple[str, Tensor]:
    layer = model.get_submodule(use.call.module) if use.call else None
    if use.in_place:
        raise _changed(say("its output"), use.where)
    if layer is None or use.call is None or not is_layer(layer) or not use.call.inputs:
        raise Refused(say("its output reaches {place}", place=use.where))
    called = module_name(use.call.module)
    if type(layer).forward not in _LAYER_FORWARDS:
        raise Refused(
            say(
                "{layer} is of class {kind}, whose forward is its own",
                layer=called,
                kind=Name(type(layer).__name__),
            )
        )
    if not takes_shift(layer):
        raise Refused(say("{layer} pads with zeros", layer=called))
    given = use.call.inputs[0]
    path = tuple(op for op in use.path if op.index < use.call.begin)
    axis = len(given.size) - 1 - spatial_dims(layer)
    channels = constant_by_channel(flow.labels_along(out, 1, path, given), axis)
    if channels is None or bool((channels < 0).any()):
        raise Refused(say("its channels are not the inputs of {layer}", layer=called))
    return use.call.module, channels


def _refuse_overwritten(flow: Flow, given: Access, what: str) -> None:
    """Refuse where the norm's input is overwritten later: without the norm, its output would be too."""
    for op in flow.ops:
        if given.value in op.in_place:
            raise _changed(what, Use("function", op.name, op.call, op, None).where)


def _changed(what: str, place: str) -> Refused:
    return Refused(say("{what} is changed in place by {place}", what=what, place=place))


def _words_of(source: Source) -> str:
    if source.kind == "input":
        return say("the model's input")
    if source.kind == "parameter":
        return say("the parameter {name}", name=Name(source.name))
    if source.kind == "module":
        return module_name(source.name)
    if source.kind == "function" and source.call is not None:
        return say("{name} in {module}", name=Name(source.name), module=module_name(source.call.module))
    return say("something that was not seen")
