"""Fold batch norms into the convolutions and linear layers beside them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from xhat.dataflow import Flow, record
from xhat.lang import Name, listed, say
from xhat.nn import Contiguous
from xhat.norms import normalisers
from xhat.surgery._absorb import absorb_
from xhat.surgery._copies import copied, leaves_model, outputs_of
from xhat.surgery._hindrances import held_aside
from xhat.surgery._links import Link, find_link
from xhat.surgery._norm_ops import check_finite
from xhat.surgery._refused import Refused
from xhat.surgery._replacement import remove_
from xhat.surgery._trial import Arguments, Failed, Trial, max_abs_error
from xhat.surgery.result import Change, Refusal, Surgery


@leaves_model
def fold(model: nn.Module, *inputs: Any, kwargs: dict[str, Any] | None = None) -> Surgery:
    """Return a copy for evaluation in which batch norms are folded into the layers beside them.

    In evaluation mode a batch norm is y = s·x + t per channel, with s = γ/√(σ² + ε) and t = β − s·μ. A
    convolution or linear layer before it takes that over as W′ = s·W, b′ = s·b + t; one behind it as W′ = W·s,
    b′ = b + W·t, which is exact where no zeros are padded in between. Which layer is beside which is seen by
    running the model on the inputs, so any Python in its forward is right. What is not exact is refused.

    Every change is then tried on a copy in float64 whose γ, β and statistics are random, on the inputs and on
    random ones; what alters an output beyond rounding is taken back and listed.

    Args:
        model: Any module; it is left as it is.
        inputs: Its example arguments.
        kwargs: Its example keyword arguments.

    Returns:
        The copy, in evaluation mode; a folded batch norm is ``nn.Identity``, ``xhat.nn.Contiguous`` where a
            view behind it needs that, or what else its class does.
        ``changes`` and ``refusals`` together name every batch norm.

    Raises:
        ModelError: the model raises on the inputs in evaluation mode, or cannot be copied.
    """
    arguments: Arguments = (inputs, kwargs or {})
    result = copied(model).eval()
    before = outputs_of(result, arguments)
    names = list(normalisers(result))
    changes: dict[str, Change] = {}
    refusals: dict[str, str] = {}
    while True:  # a batch norm beside another one can be folded once that one is gone
        flow = record(result, *inputs, kwargs=kwargs, modes=("eval",)).eval
        assert flow is not None
        links, refusals = _links(result, flow, [name for name in names if name not in changes])
        if links:
            trial = Trial(result, arguments, partial(_apply, flow=flow), watch=_watched(links))
            good, bad = trial.split(links)
            if bad:  # the identity may hand on what a view or a change in place behind it does not take
                refusals |= {one.part.norm: _words_of(one) for one in bad}
                good, _ = trial.split([*good, *(replace(one.part, lays_out=True) for one in bad)])
                refusals = {name: reason for name, reason in refusals.items() if name not in _norms_of(good)}
            changes |= {change.module: change for change in _apply(result, good, flow)}
            if good and any(_beside(flow, name, good) for name in refusals):
                continue
        break
    refused = tuple(Refusal(name, refusals[name]) for name in names if name in refusals)
    done = tuple(changes[name] for name in names if name in changes)
    return Surgery(result, done, refused, max_abs_error(before, outputs_of(result, arguments)))


def _words_of(failed: Failed[Link]) -> str:
    if failed.raised is not None:
        return say("the model raised {error} when it was folded", error=Name(failed.raised))
    return say("folding it changed the outputs, with random parameters and statistics, by more than rounding")


def _norms_of(links: Sequence[Link]) -> set[str]:
    return {link.norm for link in links}


def _links(model: nn.Module, flow: Flow, names: Sequence[str]) -> tuple[list[Link], dict[str, str]]:
    links: list[Link] = []
    refusals: dict[str, str] = {}
    aside = held_aside(model)
    for name in names:
        try:
            if name in aside:
                raise Refused(aside[name])
            link = find_link(model, flow, name)
            check_finite(model.get_submodule(name))
            links.append(link)
        except Refused as refused:
            refusals[name] = refused.reason
    return links, refusals


def _watched(links: Sequence[Link]) -> set[str]:
    """Return modules whose outputs stay as they are: what stands for a norm, or the layers behind it."""
    behind = {link.norm: link.layers[0] for link in links if link.side == "behind"}
    in_front = {name for link in links if link.side == "in front" for name in link.layers}
    # a layer that takes over a norm behind it gives another result
    return {*behind, *(in_front - set(behind.values()))}


def _apply(model: nn.Module, links: Sequence[Link], flow: Flow) -> list[Change]:
    """Fold in place, and return what was done."""
    changes = []
    for link in links:
        absorb_(model, link)
        rest = remove_(model, flow, link.norm, instead=Contiguous() if link.lays_out else None)
        layers = listed(map(Name, link.layers), " and ")
        words: list[str] = [
            say("folded into {layers} before it", layers=layers)
            if link.side == "behind"
            else say("folded into {layers} after it", layers=layers)
        ]
        words += [rest] if rest else []
        words += [say("its result is made contiguous")] if link.lays_out else []
        changes.append(Change(link.norm, listed(words)))
    return changes


def _beside(flow: Flow, name: str, links: Sequence[Link]) -> bool:
    """Whether the batch norm of that name has one of those that are gone before or behind it."""
    gone = _norms_of(links)
    calls = flow.calls.get(name, ())
    return any(
        flow.source(call).name in gone or any(use.name in gone for use in flow.uses(call)) for call in calls
    )
