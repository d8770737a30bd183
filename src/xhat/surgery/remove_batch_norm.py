"""The twin without batch norm."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from xhat.dataflow import Flow, record
from xhat.lang import Name, listed, say
from xhat.nn import ChannelAffine, Contiguous
from xhat.norms import batch_norms
from xhat.surgery._absorb import absorb_
from xhat.surgery._arithmetic import scale_and_shift
from xhat.surgery._copies import copied, leaves_model, outputs_of
from xhat.surgery._hindrances import held_aside, hindrance
from xhat.surgery._links import Link, find_link
from xhat.surgery._norm_ops import check_finite, norm_ops
from xhat.surgery._refused import Refused, changed_without
from xhat.surgery._replacement import cannot_be_taken_apart, remove_, rest_of
from xhat.surgery._trial import Arguments, Trial, max_abs_error
from xhat.surgery.result import Change, Refusal, Surgery


@dataclass(frozen=True)
class Removal:
    """How one batch norm goes."""

    norm: str  # full name
    link: Link | None  # the layer that takes it over; None: γ and β stay as a layer of their own
    lays_out: bool = False  # whether the order in memory that the norm gave its result is needed


@leaves_model
def remove_batch_norm(model: nn.Module, *inputs: Any, kwargs: dict[str, Any] | None = None) -> Surgery:
    """Return the twin without batch norm: the same function in evaluation mode, to be trained without BN.

    Where one convolution or linear layer before the batch norm can take it over (see ``fold``), in training mode
    as well, it does, and gets a bias for β. Elsewhere, as behind a sum, ``xhat.nn.ChannelAffine`` takes its place:
    y = s·x + t, both learned. Of a fresh model all weights so stay as they are, up to a factor of 1/√(1 + ε).

    Args:
        model: Any module; it is left as it is.
        inputs: Its example arguments.
        kwargs: Its example keyword arguments.

    Returns:
        The twin, in the modes of the model. ``refusals`` names batch norms that stay.

    Raises:
        ModelError: the model raises on the inputs in evaluation mode, or cannot be copied.
    """
    arguments: Arguments = (inputs, kwargs or {})
    result = copied(model)
    before = outputs_of(result, arguments)
    recording = record(result, *inputs, kwargs=kwargs)
    flow = recording.eval
    assert flow is not None
    removals: list[Removal] = []
    reasons: dict[str, str] = {}
    aside = held_aside(result)
    for name in batch_norms(result):
        try:
            if name in aside:
                raise Refused(aside[name])
            removals.append(_removal(result, flow, recording.train, name))
        except Refused as refused:
            reasons[name] = refused.reason
    changes: list[Change] = []
    if removals:
        apply = partial(_apply, flow=flow)
        trial = Trial(result, arguments, apply, watch=[one.norm for one in removals])
        good, bad = trial.split(removals)
        if bad:  # as in fold: a view behind it may need the order in memory
            good, _ = trial.split([*good, *(replace(one.part, lays_out=True) for one in bad)])
            gone = {one.norm for one in good}
            reasons |= {
                one.part.norm: changed_without(one.raised) for one in bad if one.part.norm not in gone
            }
        changes = apply(result, good)
    left = tuple(Refusal(name, reason) for name, reason in reasons.items())
    return Surgery(result, tuple(changes), left, max_abs_error(before, outputs_of(result, arguments)))


def _removal(model: nn.Module, flow: Flow, train: Flow | None, name: str) -> Removal:
    norm = model.get_submodule(name)
    if not name:
        raise Refused(say("the model itself is a batch norm"))
    norm_ops(flow, model, name)
    if why := hindrance(model, flow, name):
        raise Refused(why)
    check_finite(norm)
    if rest_of(norm, flow, name) is None:
        raise Refused(cannot_be_taken_apart(norm))
    try:
        link = find_link(model, flow, name)
        if train is not None and find_link(model, train, name, fixed=False).layers != link.layers:
            return Removal(name, None)
    except Refused:
        return Removal(name, None)
    return Removal(name, link if link.side == "behind" else None)


@torch.no_grad()
def _apply(model: nn.Module, parts: Sequence[Removal], flow: Flow) -> list[Change]:
    changes: list[Change] = []
    words: list[str]
    for part in parts:
        if part.link is not None:
            absorb_(model, part.link)
            rest = remove_(model, flow, part.norm, instead=Contiguous() if part.lays_out else None)
            layer = Name(part.link.layers[0])
            words = [say("taken over by {layer}, whose bias is now trained in place of β", layer=layer)]
        else:
            norm = model.get_submodule(part.norm)
            scale, shift = scale_and_shift(norm)
            like = next((p for p in (*norm.parameters(), *norm.buffers()) if p.is_floating_point()), scale)
            affine = ChannelAffine(len(scale), device=like.device, dtype=like.dtype)
            affine.weight.copy_(scale)
            affine.bias.copy_(shift)
            instead = nn.Sequential(affine, Contiguous()) if part.lays_out else affine
            rest = remove_(model, flow, part.norm, instead=instead)
            words = [say("a scale and a shift per channel stay")]
        words += [rest] if rest else []
        words += [say("its result is made contiguous")] if part.lays_out else []
        changes.append(Change(part.norm, listed(words)))
    return changes
