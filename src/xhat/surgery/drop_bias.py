"""Drop the biases that batch norm cancels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xhat.dataflow import Flow, Use, module_name, record
from xhat.lang import Name, listed, say
from xhat.surgery._arithmetic import Layer, is_layer
from xhat.surgery._channels import constant_by_channel, output_axis
from xhat.surgery._copies import copied, leaves_model, outputs_of
from xhat.surgery._hindrances import hindrance
from xhat.surgery._norm_ops import is_normalised, norm_ops, takes_batch_statistics
from xhat.surgery._refused import Refused, changed_without
from xhat.surgery._trial import Arguments, Trial, max_abs_error
from xhat.surgery.result import Change, Refusal, Surgery


@dataclass(frozen=True)
class Cancelled:
    """A layer whose bias is cancelled."""

    layer: str  # full name
    # by full name of a batch norm behind it: (its channels,), the output that each is
    norms: dict[str, Tensor]


@leaves_model
def drop_bias(model: nn.Module, *inputs: Any, kwargs: dict[str, Any] | None = None) -> Surgery:
    """Return a copy without the biases that batch norm cancels, outputs kept in both modes.

    In training mode BN subtracts the batch's mean, and any bias b with it: BN(Wx + b) = BN(Wx). In evaluation mode
    BN subtracts the running mean μ, which has learned b: with μ′ = μ − b the output stays. The bias costs memory,
    time and optimizer state, and its gradient is zero up to rounding.

    A bias goes where every output of its layer reaches batch norms and nothing else, in training mode and in
    evaluation mode. Optimizers hold parameters: make a new one for the copy.

    Args:
        model: Any module; it is left as it is.
        inputs: Its example arguments, more than one sample, since it is run in training mode too.
        kwargs: Its example keyword arguments.

    Returns:
        The copy, in the modes of the model. ``changes`` names layers whose bias is gone, ``refusals`` those
        before a batch norm whose bias must stay.

    Raises:
        ModelError: the model raises on the inputs in evaluation mode, or cannot be copied.

    Source: [IS] Ioffe & Szegedy 2015, arXiv 1502.03167, section 3.2.
    """
    arguments: Arguments = (inputs, kwargs or {})
    result = copied(model)
    before = outputs_of(result, arguments)
    recording = record(result, *inputs, kwargs=kwargs)
    assert recording.eval is not None
    found: list[Cancelled] = []
    refusals: dict[str, str] = {}
    for name, layer in _candidates(result, recording.eval):
        try:
            if recording.train is None:
                error = Name(recording.failures["train"])
                raise Refused(say("the model raised {error} in training mode", error=error))
            found.append(_cancelled(result, [recording.eval, recording.train], name, layer))
        except Refused as refused:
            refusals[name] = refused.reason
    good: list[Cancelled] = []
    if found:
        good, bad = Trial(
            result, arguments, _apply, training=True, watch={norm for one in found for norm in one.norms}
        ).split(found)
        refusals |= {one.part.layer: changed_without(one.raised) for one in bad}
        _apply(result, good)
    changes = tuple(Change(one.layer, _words(one)) for one in good)
    left = tuple(Refusal(name, reason) for name, reason in refusals.items())
    return Surgery(result, changes, left, max_abs_error(before, outputs_of(result, arguments)))


def _words(one: Cancelled) -> str:
    norms = listed(map(Name, one.norms), " and ")
    return say("its bias is gone, moved into running_mean of {norms}", norms=norms)


def _candidates(model: nn.Module, flow: Flow) -> list[tuple[str, Layer]]:
    """Return the layers with a bias, some of whose outputs are normalised by a batch norm."""
    behind = set()
    for name in flow.norms & set(flow.calls):
        for call in flow.calls[name]:
            source = flow.source(call)
            behind.add(source.name if source.kind == "module" else None)
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if name in behind and is_layer(layer) and layer.bias is not None
    ]


def _cancelled(model: nn.Module, flows: Sequence[Flow], name: str, layer: Layer) -> Cancelled:
    norms: dict[str, Tensor] = {}
    for flow in flows:
        if why := hindrance(model, flow, name):
            raise Refused(why)
        for call in flow.calls.get(name, ()):
            if not call.outputs:
                raise Refused(say("a call of {module} raised", module=module_name(name)))
            made = flow.source_of(call.outputs[0]).access
            for use in flow.uses_of(made):
                norm = _norm_of(flow, use.call.module if use.call else "")
                if norm is None or not is_normalised(
                    flow, use, norm, norm_ops(flow, model, norm, fixed=False)
                ):
                    raise Refused(_also(use, flow))
                channels = constant_by_channel(flow.labels(made, output_axis(layer, made), use), 1)
                if channels is None or not torch.equal(norms.setdefault(norm, channels), channels):
                    raise Refused(
                        say(
                            "the channels of {norm} are not its outputs: another axis is normalised",
                            norm=module_name(norm),
                        )
                    )
    for flow in flows:  # a norm that only one mode has behind the layer may have something else in the other
        for norm in norms:
            _only(model, flow, norm, name)
    return Cancelled(name, norms)


def _also(use: Use, flow: Flow) -> str:
    mode = say("training mode") if flow.mode == "train" else say("evaluation mode")
    if use.in_place:
        return say("what it computes is changed in place by {place} in {mode}", place=use.where, mode=mode)
    return say("it also reaches {place} in {mode}", place=use.where, mode=mode)


def _norm_of(flow: Flow, name: str) -> str | None:
    """Return the batch norm that a module is, or lies in."""
    return next((norm for norm in flow.norms if name == norm or name.startswith(f"{norm}.")), None)


def _only(model: nn.Module, flow: Flow, norm: str, layer: str) -> None:
    """Refuse a batch norm that others than the layer reach as well: its running mean is theirs too."""
    if why := hindrance(model, flow, norm):
        raise Refused(why)
    for op, access in norm_ops(flow, model, norm, fixed=False) if norm in flow.calls else ():
        if flow.mode == "train" and (op is None or not takes_batch_statistics(op)):
            raise Refused(
                say(
                    "{norm} keeps its running statistics in training mode too, and does not cancel it",
                    norm=module_name(norm),
                )
            )
        source = flow.source_of(access)
        if source.name != layer or source.kind != "module":
            other = Name(source.name) if source.name else say("the input")
            raise Refused(
                say("{norm} also normalises what {other} gives", norm=module_name(norm), other=other)
            )


@torch.no_grad()
def _apply(model: nn.Module, parts: Sequence[Cancelled]) -> None:
    for part in parts:
        layer = model.get_submodule(part.layer)
        assert isinstance(layer.bias, Tensor)
        for name, channels in part.norms.items():
            mean = model.get_submodule(name).running_mean
            if isinstance(mean, Tensor):
                mean.copy_(mean.double() - layer.bias.double()[channels.to(mean.device)])
        layer.register_parameter("bias", None)
