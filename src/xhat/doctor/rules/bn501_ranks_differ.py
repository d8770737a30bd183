"""Ranks have different running statistics.

Looked for: the running means and variances of all ranks of the process group, held against those of rank 0. Any
difference is told as information: under DistributedDataParallel ranks differ by their last batch until the next
forward takes over rank 0's. A warning from a mean 0.25σ off or a variance 1.5 times another's on, which one batch at
the default momentum does not make; an error from 1σ or 4 times on.

Why it harms: in evaluation each rank computes another model. Results then depend on which rank evaluates a sample,
and on which one is saved.

Source: DistributedDataParallel's `broadcast_buffers`, on by default, sends rank 0's buffers to all ranks at each
forward; without it, or without DistributedDataParallel, every rank averages over its own samples.

Remedy: recalibrate over all ranks, called on every rank; synchronise in training:

    xhat.recalibrate_(model, batches)
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)

Repair: `xhat.repair`, called on every rank, recalibrates over the batches of all ranks.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from xhat.batches import device_of
from xhat.doctor.case import Case, Statistics
from xhat.doctor.finding import Finding, Severity
from xhat.doctor.rule import Rule, found
from xhat.doctor.rules._recalibration import recalibrate
from xhat.lang import say
from xhat.surgery._recalibrate.ranks import Ranks

MEANS = (0.25, 1.0)  # in σ: a warning, an error
VARIANCES = (1.5, 4.0)


def check(case: Case) -> Iterator[Finding]:
    """Gather all ranks' statistics and compare them; every rank has to call this."""
    own = {name: statistics for name in case.norms if (statistics := case.statistics(name)) is not None}
    if not own:
        return
    sizes = [len(statistics.mean) for statistics in own.values()]
    means, variances = (
        _gathered(torch.cat(parts), case)
        for parts in ([s.mean for s in own.values()], [s.variance for s in own.values()])
    )
    differing = {}
    splits = zip(means.split(sizes, 1), variances.split(sizes, 1), strict=True)  # type: ignore[no-untyped-call]
    for (name, statistics), (mean, variance) in zip(own.items(), splits, strict=True):
        if not (_is_one(mean) and _is_one(variance)):
            differing[name] = _distance(statistics, mean, variance)
    if not differing:
        return
    worst = max(differing, key=lambda name: max(differing[name][0] / MEANS[0], math.log(differing[name][1])))
    off, ratio = differing[worst]
    harms = [any(d[0] >= MEANS[k] or d[1] >= VARIANCES[k] for d in differing.values()) for k in (0, 1)]
    yield found(
        "BN501",
        worst if len(differing) == 1 else "",
        say(
            "running statistics of {count} norms differ between {ranks} ranks; most in {worst}: means by {off:.2g}σ, "
            "variances by a factor of {ratio:.3g}",
            count=len(differing),
            ranks=case.world_size,
            worst=worst,
            off=off,
            ratio=ratio,
        ),
        evidence={
            "norms": list(differing),
            "mean_difference": [distance[0] for distance in differing.values()],
            "variance_ratio": [distance[1] for distance in differing.values()],
            "ranks": case.world_size,
        },
        remedy=say(
            "Recalibrate over all ranks, on every rank: xhat.recalibrate_(model, batches); in training let "
            "DistributedDataParallel broadcast buffers, or use "
            "torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)."
        ),
        severity=Severity.error if harms[1] else Severity.warning if harms[0] else Severity.info,
        repairable=True,
    )


def _gathered(own: Tensor, case: Case) -> Tensor:
    """Return the ranks' vectors as rows, float64 on the CPU."""
    ranks = Ranks(case.process_group, device_of(case.model))
    return torch.stack(ranks.share(lambda: own, len(own), what="the diagnosis"))


def _is_one(rows: Tensor) -> bool:
    """Whether all ranks' rows are the same bits; NaN is no difference between them."""
    return torch.equal(rows.nan_to_num(), rows[:1].expand_as(rows).nan_to_num())


def _distance(own: Statistics, means: Tensor, variances: Tensor) -> tuple[float, float]:
    """Return the largest difference of means in σ, and the largest ratio of variances, over channels."""
    widths = variances.clamp(min=0) + own.eps
    off = (means.amax(0) - means.amin(0)) / widths.mean(0).sqrt()
    ratio = widths.amax(0) / widths.amin(0)
    return float(off.nan_to_num(math.inf).max()), float(ratio.nan_to_num(math.inf).max())


RULE = Rule("BN501", "ranks-differ", check, needs=frozenset({"ranks"}), repair=recalibrate)
