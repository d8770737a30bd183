"""The twin with batch norm."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from xhat.dataflow import Flow, record
from xhat.lang import Name, Phrase, say
from xhat.nn import WithBatchNorm
from xhat.norms import is_batch_norm, replace_
from xhat.surgery._arithmetic import Layer, channels_out, is_layer, spatial_dims
from xhat.surgery._copies import copied, leaves_model, outputs_of
from xhat.surgery._hindrances import held_aside, hindrance
from xhat.surgery._refused import Refused
from xhat.surgery._trial import Arguments, Failed, Trial, max_abs_error
from xhat.surgery.result import Change, Refusal, Surgery

_NORMS = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # by spatial axes
_OTHER_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)


@leaves_model
def add_batch_norm(model: nn.Module, *inputs: Any, kwargs: dict[str, Any] | None = None) -> Surgery:
    """Return the twin with batch norm behind every convolution and linear layer but the last ones.

    The twin computes the same function in evaluation mode: γ = 1, μ = 0, σ² = 1 − ε, and β is the layer's bias,
    which goes, since batch norm would cancel it. In training mode it normalises from the first step on. Layers
    whose result no other layer follows, as the one that gives class scores, get none; nor do layers that some
    normalisation already follows.

    Args:
        model: Any module; it is left as it is.
        inputs: Its example arguments.
        kwargs: Its example keyword arguments.

    Returns:
        The twin, in the modes of the model, with ``xhat.nn.WithBatchNorm`` in the place of each layer.
        ``refusals`` names layers that get none, with the reason; ``needless`` ones are those of the last layers,
            of layers that are normalised already, and of those that the inputs do not reach.

    Raises:
        ModelError: the model raises on the inputs in evaluation mode, or cannot be copied.

    Source: [IS] Ioffe & Szegedy 2015, arXiv 1502.03167, section 3.2: before the activation, no bias.
    """
    arguments: Arguments = (inputs, kwargs or {})
    result = copied(model)
    before = outputs_of(result, arguments)
    flow = record(result, *inputs, kwargs=kwargs, modes=("eval",)).eval
    assert flow is not None
    followed, aside = _followed(result, flow), held_aside(result)
    places: list[str] = []
    left: list[Refusal] = []
    for name, module in result.named_modules():
        if not is_layer(module):
            continue
        try:
            _check(result, flow, name, module, followed)
            if name in aside:
                raise Refused(aside[name])
            places.append(name)
        except Refused as refused:
            left.append(Refusal(name, refused.reason, refused.needless))
    changes: list[Change] = []
    if places:
        good, bad = Trial(result, arguments, _apply, watch=places).split(places)
        left += [Refusal(one.part, _words_of(one)) for one in bad]
        changes = _apply(result, good)
    return Surgery(result, tuple(changes), tuple(left), max_abs_error(before, outputs_of(result, arguments)))


def _words_of(failed: Failed[str]) -> str:
    if failed.raised is not None:
        return say("the model raised {error} with batch norm behind it", error=Name(failed.raised))
    return say("with batch norm behind it the outputs changed by more than rounding")


def _check(model: nn.Module, flow: Flow, name: str, layer: Layer, followed: set[str]) -> None:
    calls = flow.calls.get(name, ())
    if not name:
        raise Refused(say("the model itself is this layer"))
    if not calls:
        raise Refused(say("the example inputs did not reach it"), needless=True)
    if len(calls) > 1:
        raise Refused(
            say(
                "it is called {count} times: one batch norm would mix the statistics of its inputs",
                count=len(calls),
            )
        )
    if name not in followed:
        raise Refused(say("no other layer follows: its result is the model's output"), needless=True)
    if why := hindrance(model, flow, name):
        raise Refused(why)
    source = flow.source_of(calls[0].outputs[0])
    if source.call is not calls[0]:
        raise Refused(say("its class, {kind}, does more than its layer", kind=Name(type(layer).__name__)))
    axes = len(calls[0].outputs[0].size)
    if axes < 2 or (axes != spatial_dims(layer) + 2 and not isinstance(layer, nn.Linear)):
        raise Refused(say("its input is one sample without a batch axis"))
    for use in flow.uses(calls[0]):
        if use.kind == "module" and isinstance(model.get_submodule(use.name), _OTHER_NORMS):
            raise Refused(say("{norm} normalises it already", norm=Name(use.name)), needless=True)


def _followed(model: nn.Module, flow: Flow) -> set[str]:
    """Return the full names of layers whose result reaches another layer."""
    layers = {name for name, module in model.named_modules() if is_layer(module)}
    reached: dict[int, frozenset[str]] = {}  # by value: layers that it hangs on
    followed: set[str] = set()
    for op in flow.ops:
        before: frozenset[str] = frozenset().union(
            *(reached.get(read.value, frozenset()) for read in op.reads)
        )
        inside = op.call.module if op.call.module in layers else None
        if inside is not None:
            followed |= before - {inside}
            before = before | {inside}
        for made in op.made:
            reached[made.value] = before
    return followed


@torch.no_grad()
def _apply(model: nn.Module, places: Sequence[str]) -> list[Change]:
    changes = []
    for name in places:
        layer = model.get_submodule(name)
        assert is_layer(layer)
        weight = layer.weight
        kind = _NORMS[spatial_dims(layer)]
        norm = kind(channels_out(layer), device=weight.device, dtype=weight.dtype)
        assert is_batch_norm(norm)
        assert norm.running_var is not None
        norm.running_var.fill_(1 - norm.eps)
        words: Phrase = say(
            "{kind} of {count} features behind it", kind=Name(kind.__name__), count=norm.num_features
        )
        if layer.bias is not None:
            norm.bias.copy_(layer.bias)
            layer.register_parameter("bias", None)
            words = say("{words}, its bias is now β", words=words)
        replace_(model, layer, WithBatchNorm(layer, norm).train(layer.training))
        changes.append(Change(name, words))
    return changes
