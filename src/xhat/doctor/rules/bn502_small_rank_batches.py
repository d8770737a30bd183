"""Each rank's batch is small, and norms do not look at the others'.

Looked for: norms trained with batch statistics, not synchronised, to which the median batch of some rank gives fewer
than 16 independent values a channel (counted as in BN303), while the batches of all ranks together would give 16 or
more.

Why it harms: data-parallel training normalises on each rank by that rank's part of the batch. The batch size that
counts for the noise of means and variances is that of one rank, however many there are.

Source: Peng et al. 2018, arXiv 1711.07240, sec. 3, and Wu and He 2018, arXiv 1803.08494, figure 1, for batches of two
images a device.

Remedy: synchronise the statistics over ranks:

    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)

Repair: none; the training code has to change.
"""

from collections.abc import Iterator
from statistics import median

import torch
from torch import nn

from xhat.batches import device_of
from xhat.doctor.case import Case
from xhat.doctor.finding import Finding
from xhat.doctor.observe import Observed
from xhat.doctor.rule import Rule, found
from xhat.doctor.rules._few import FEW, is_few
from xhat.lang import say
from xhat.surgery._recalibrate.ranks import Ranks


def check(case: Case) -> Iterator[Finding]:
    """Gather what each rank's batches are worth; every rank has to call this."""
    observed = case.observed
    assert observed is not None
    worth = _worth(case, observed)
    own = torch.tensor(list(worth.values()), dtype=torch.float64)
    together = Ranks(case.process_group, device_of(case.model))
    # (ranks, norms), 0 where the norm has no part
    ranks = torch.stack(together.share(lambda: own, len(own), what="the diagnosis"))
    few = {
        name: [float(value) for value in column]
        for name, column in zip(worth, ranks.T, strict=True)
        if column.min() > 0 and is_few(float(column.min())) and not is_few(float(column.sum()))
    }
    if not few:
        return
    worst = min(few, key=lambda name: min(few[name]))
    yield found(
        "BN502",
        worst if len(few) == 1 else "",
        say(
            "{count} norms see fewer than {least} independent values a channel on each of {ranks} ranks and are not "
            "synchronised; fewest in {worst}: {fewest:.3g}, where all ranks together have {all:.3g}",
            count=len(few),
            least=FEW,
            ranks=case.world_size,
            worst=worst,
            fewest=min(few[worst]),
            all=sum(few[worst]),
        ),
        evidence={"norms": list(few), "worth": list(few.values()), "ranks": case.world_size},
        remedy=say(
            "Synchronise statistics over ranks: model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)."
        ),
    )


def _worth(case: Case, observed: Observed) -> dict[str, float]:
    """Return what a batch of this rank is worth to each norm; 0 where it is not concerned."""
    found = {}
    for name, norm in case.norms.items():
        values = [count for count in observed.values.get(name, ()) if count]
        if isinstance(norm, nn.SyncBatchNorm) or name in observed.frozen or not values:
            found[name] = 0.0
        else:
            most = float(median(values))
            found[name] = min(observed.seen[name].worth(), most) if name in observed.seen else most
    return found


RULE = Rule("BN502", "small-rank-batches", check, needs=frozenset({"ranks", "batches"}))
