"""The twin without batch norm."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from xhat.dataflow import Flow, record
from xhat.nn import ChannelAffine
from xhat.norms import batch_norms
from xhat.surgery._arithmetic import scale_and_shift
from xhat.surgery._copies import copied, leaves_model, outputs_of
from xhat.surgery._hindrances import hindrance
from xhat.surgery._links import Link, Refused, absorb_, check_finite, find_link, norm_ops
from xhat.surgery._replacement import remove_, rest_of
from xhat.surgery._trial import Arguments, Trial, max_abs_error
from xhat.surgery.result import Change, Refusal, Surgery


@dataclass(frozen=True)
class Removal:
    """How one batch norm goes."""

    norm: str  # full name
    link: Link | None  # the layer that takes it over; None: γ and β stay as a layer of their own


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
    for name in batch_norms(result):
        try:
            removals.append(_removal(result, flow, recording.train, name))
        except Refused as refused:
            reasons[name] = str(refused)
    changes: list[Change] = []
    if removals:
        apply = partial(_apply, flow=flow)
        good, bad = Trial(result, arguments, apply, watch=[one.norm for one in removals]).split(removals)
        reasons |= {one.norm: "without it the outputs changed by more than rounding" for one in bad}
        changes = apply(result, good)
    left = tuple(Refusal(name, reason) for name, reason in reasons.items())
    return Surgery(result, tuple(changes), left, max_abs_error(before, outputs_of(result, arguments)))


def _removal(model: nn.Module, flow: Flow, train: Flow | None, name: str) -> Removal:
    norm = model.get_submodule(name)
    if not name:
        raise Refused("the model itself is a batch norm")
    norm_ops(flow, model, name)
    if why := hindrance(model, flow, name):
        raise Refused(why)
    check_finite(norm)
    if rest_of(norm, flow, name) is None:
        raise Refused(f"{type(norm).__name__} does more than normalise, and cannot be taken apart")
    try:
        link = find_link(model, flow, name)
        if train is not None and find_link(model, train, name, fixed=False).layers != link.layers:
            return Removal(name, None)
    except Refused:
        return Removal(name, None)
    return Removal(name, link if link.side == "behind" else None)


@torch.no_grad()
def _apply(model: nn.Module, parts: Sequence[Removal], flow: Flow) -> list[Change]:
    changes = []
    for part in parts:
        if part.link is not None:
            absorb_(model, part.link)
            rest = remove_(model, flow, part.norm)
            words = f"taken over by {part.link.layers[0]}, whose bias is now trained in place of β"
        else:
            norm = model.get_submodule(part.norm)
            scale, shift = scale_and_shift(norm)
            like = next((p for p in (*norm.parameters(), *norm.buffers()) if p.is_floating_point()), scale)
            affine = ChannelAffine(len(scale), device=like.device, dtype=like.dtype)
            affine.weight.copy_(scale)
            affine.bias.copy_(shift)
            rest = remove_(model, flow, part.norm, instead=affine)
            words = "a scale and a shift per channel stay"
        changes.append(Change(part.norm, words + (f"; {rest}" if rest else "")))
    return changes
