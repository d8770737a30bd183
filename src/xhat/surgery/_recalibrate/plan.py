"""Which batch norms are recalibrated, in how many passes, and what each normalises with meanwhile."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from xhat.batches import can_repeat
from xhat.dataflow import record
from xhat.errors import DataError
from xhat.lang import say
from xhat.norms import batch_norms, is_fixed_norm
from xhat.surgery._recalibrate.job import Job
from xhat.surgery.freeze import is_frozen


@dataclass(frozen=True)
class Pass:
    """One pass over the batches."""

    collect: frozenset[str]  # layers whose statistics are taken
    by_batch: frozenset[
        str
    ]  # layers that normalise with the batch's statistics; all others with running ones


def kept_layers(model: nn.Module) -> dict[str, str]:
    """Return the layers that are left alone, with the reason, in the order of the model."""
    kept: dict[str, str] = {}
    for name, module in model.named_modules():
        if is_fixed_norm(module):
            kept[name] = say("a {kind}: its statistics are constants", kind=type(module).__name__)
    for name, norm in batch_norms(model).items():
        if norm.running_mean is None or norm.running_var is None:
            kept[name] = say("no running statistics (track_running_stats=False)")
        elif is_frozen(norm):
            kept[name] = say("frozen by freeze_")
        elif not norm.track_running_stats:
            kept[name] = say("track_running_stats=False: training does not move its statistics")
        elif model.training and not norm.training:
            kept[name] = say("in evaluation mode while the model is in training mode")
    return kept


def plan_of(job: Job, chosen: Sequence[str]) -> tuple[tuple[Pass, ...], Job]:
    """Return the passes that calibrate the chosen layers, and the job with its batches whole.

    Raises:
        DataError: no rank has a batch that reaches a chosen layer.
    """
    if not job.sequential:
        # All at once, each normalising with the batch's statistics, as in training.
        return (Pass(frozenset(chosen), frozenset(chosen)),), job
    names = list(job.norms)
    first: list[Any] = []

    def levels() -> Tensor:
        first.extend(islice(job.each(), 1))
        return _levels(job, first[0]).flatten() if first else torch.zeros(2 * len(names), dtype=torch.float64)

    # All ranks follow the first one that has a batch.
    known = [one.view(2, -1) for one in job.ranks.share(levels, 2 * len(names)) if one.any()]
    depth, calls = (dict(zip(names, map(int, row), strict=True)) for row in known[0]) if known else ({}, {})
    reached = [name for name in chosen if depth.get(name)]
    if not reached:
        raise DataError(
            f"the first batch reaches none of the {len(chosen)} batch norms to recalibrate, or there is none: "
            "nothing tells the order. Pass batches that the model's whole forward pass can be run on."
        )
    passes = in_levels(reached, depth, [name for name in reached if calls[name] > 1])
    if not can_repeat(job.batches):
        job = replace(job, batches=chain(first, job.batches))
    return passes, job


def in_levels(layers: Iterable[str], levels: dict[str, int], shared: Iterable[str]) -> tuple[Pass, ...]:
    """One pass for each depth, predecessors done before and normalising with their new statistics.

    A layer in ``shared`` stands before and behind others, or itself: it has no running statistics that are
    right before its own pass is over, and normalises with the batch's until then.
    """
    own = {name: levels[name] for name in layers}
    return tuple(
        Pass(
            frozenset(name for name in own if own[name] == level),
            frozenset(name for name in shared if own[name] >= level),
        )
        for level in sorted({*own.values()})
    )


def _levels(job: Job, batch: Any) -> Tensor:
    """Return, of each layer, its depth among batch norms and its number of calls; (2, layers), 0 if unused."""
    # The whole job's forward pass, whatever the batch is; ``record`` hands the model back.
    flow = record(job.model, call=lambda _: job.run(batch), modes=("eval",)).eval
    assert flow is not None  # a model that fails in evaluation mode has raised
    depth = flow.levels()
    rows = (
        [depth.get(name, 0) for name in job.norms],
        [len(flow.calls.get(name, ())) for name in job.norms],
    )
    return torch.tensor(rows, dtype=torch.float64)
