"""New running statistics of batch norms from batches, without training."""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from xhat.batches import Forward, device_of
from xhat.errors import UsageError
from xhat.lang import say
from xhat.norms import batch_norms, is_uninitialised
from xhat.surgery._recalibrate.bar import bar
from xhat.surgery._recalibrate.found import Found, all_of
from xhat.surgery._recalibrate.job import Job
from xhat.surgery._recalibrate.plan import kept_layers, plan_of
from xhat.surgery._recalibrate.ranks import Ranks
from xhat.surgery._recalibrate.run import run_pass
from xhat.surgery._recalibrate.write import statistics, write_
from xhat.surgery.recalibration import Moved, Recalibration
from xhat.unchanged import unchanged

logger = logging.getLogger(__name__)


def recalibrate_(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    limit: int | None = None,
    sequential: bool = False,
    forward: Forward | None = None,
    process_group: ProcessGroup | None = None,
    progress: bool = False,
) -> Recalibration:
    """Set the running statistics of every batch norm to those of the batches, in place.

    running_mean = mean and running_var = unbiased variance of all values that the layer saw, each value with
    the same weight, whatever the sizes of the batches; num_batches_tracked = batches that it saw. Counts, means
    and squared deviations are merged in float64 by Chan's formula. ``momentum`` has no part in it.

    By default each recalibrated layer normalises each batch with that batch's statistics, as in training, so
    one pass gives all layers what they see there. ``sequential=True`` takes the statistics of what a layer
    sees in evaluation, behind layers that are recalibrated already; that takes as many passes as the longest
    chain of batch norms has links, which the log says in advance. Everything else is in evaluation mode: no
    dropout. No gradients are made.

    Left alone are layers frozen by ``freeze_``, layers in evaluation mode within a model in training mode (a
    freeze by ``.eval()``), layers without running statistics and layers that no batch reaches; ``kept`` of the
    result names them. A layer used several times in a forward pass gets the statistics over all its uses; with
    ``sequential`` it normalises with the batch's up to and in its own pass, that of its last use.

    A batch that leaves one value a channel at a layer that normalises with the batch's statistics is left out
    and counted in ``skipped``. New statistics are written at the very end: after an exception or Ctrl-C the
    model is as it was. Modes and random state come back in any case.

    If ``torch.distributed`` is initialised, all ranks of the group must call this, each with its own batches,
    of any number and size (none is fine where another rank has some). What they found is gathered once a pass
    (and once more for the order of a sequential run) and merged by count in rank order: all ranks write the
    same bits. SyncBatchNorm normalises with its own rank's batch meanwhile. A wrapper such as
    DistributedDataParallel is taken off: ``forward`` is given the model inside.

    Args:
        model: The model.
        batches: Batches of any kind; see ``forward``. To be gone through several times for ``sequential``.
        limit: Batches to take at most, on each rank.
        sequential: Behind recalibrated layers instead of behind batch statistics.
        forward: ``forward(model, batch)`` runs the model on one batch. By default the first item of a tuple or
            list is the input, a mapping gives keyword arguments, anything else is the input.
        process_group: The ranks to merge over; by default all.
        progress: Draw a progress bar on stderr, if that is a terminal.

    Raises:
        UsageError: there is nothing to recalibrate, ``limit`` is below 1, or ``batches`` is no iterable or an
            iterator that several passes would need again.
        DataError: there are no batches, all had to be left out, or a layer sees NaN or infinite values.
        ModelError: the model raises on a batch, or a statistic does not fit the dtype.

    Source: Wu and Johnson, “Rethinking ‘Batch’ in BatchNorm”, 2021, arXiv 2105.07576, sec. 3; Chan, Golub and
        LeVeque 1979 for the merge.
    """
    while isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        if process_group is None and isinstance(model, nn.parallel.DistributedDataParallel):
            process_group = model.process_group
        model = model.module
    norms, kept = batch_norms(model), kept_layers(model)
    _check(model, norms, kept)
    job = Job(model, norms, batches, limit, sequential, forward, Ranks(process_group, device_of(model)))
    chosen = [name for name in norms if name not in kept]
    found: list[Found] = []
    with _probing(model):
        passes, job = plan_of(job, chosen)
        logger.info("recalibrating %d batch norms; passes over the batches: %d", len(chosen), len(passes))
        model.eval()
        with bar(progress, len(passes), batches, limit) as advance:
            for number, step in enumerate(passes, start=1):
                found.append(run_pass(job, step, number, len(passes), advance))
                write_(norms, found[-1])  # for the passes that follow; put back behind them
    whole = all_of(found)
    for name in chosen:
        if name not in whole.moments:
            kept[name] = say("the first batch did not call it") if sequential else say("no batch reached it")
            logger.warning("batch norm %r keeps its statistics: %s", name, kept[name])
    old = {name: statistics(norms[name]) for name in whole.moments}
    write_(norms, whole)
    moved = {
        name: Moved.of(
            values=whole.moments[name].count,
            batches=whole.seen[name],
            old=old[name],
            new=statistics(norm),
            eps=norm.eps,
        )
        for name, norm in norms.items()
        if name in whole.moments
    }
    return Recalibration(tuple(moved), moved, kept, whole.batches, whole.skipped, len(passes))


def _check(model: nn.Module, norms: dict[str, _BatchNorm], kept: dict[str, str]) -> None:
    if lazy := [name for name, norm in norms.items() if is_uninitialised(norm)]:
        raise UsageError(
            f"batch norm {lazy[0]!r} is lazy and has not seen an input: call the model once before"
        )
    if norms.keys() <= kept.keys():
        why = "; ".join(f"{name or '(model)'} is kept: {reason}" for name, reason in list(kept.items())[:3])
        raise UsageError(
            f"{type(model).__name__} has no batch norm that could be recalibrated"
            + (
                f" ({why}{' …' if len(kept) > 3 else ''}). Call model.eval() or unfreeze_ first."
                if why
                else "."
            )
        )


@contextmanager
def _probing(model: nn.Module) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(unchanged(model))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:  # importing it takes a second; a compiled model has done so
            # A compiled graph would not show what reaches its layers.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield
