"""Running statistics are not finite.

Looked for: a running mean or running variance that is NaN or infinite, in any channel.

Why it harms: in evaluation mode such a channel is NaN or a constant, and every layer behind it mixes it into
all of its own channels. It does not heal: the running mean is (1 − momentum) · old + momentum · new, so one
batch with an infinite input leaves it infinite for good, while training, which normalises with the batch,
goes on as if nothing were wrong.

Source: the update rule in torch.nn.BatchNorm2d's documentation; after one input of inf and 200 clean batches
the running mean of torch 2.13 is still inf.

Remedy: find the batch (`torch.isfinite(x).all()`; half-precision overflow is the usual reason), leave it out,
and measure the statistics again:

    xhat.recalibrate_(model, batches)

Repair: `xhat.repair(model, diagnosis, batches=…)` recalibrates. Without batches there is nothing to put in
the place of the lost statistics.
"""

from collections.abc import Iterator

from xhat.doctor.case import Case
from xhat.doctor.finding import Finding
from xhat.doctor.rule import Rule, found
from xhat.doctor.rules._channels import first, named
from xhat.doctor.rules._recalibration import recalibrate
from xhat.lang import say


def check(case: Case) -> Iterator[Finding]:
    """Find norms with statistics that are NaN or infinite."""
    for name, has in case.with_statistics().items():
        mean, variance = ~has.mean.isfinite(), ~has.variance.isfinite()
        bad = mean | variance
        if not bad.any():
            continue
        yield found(
            "BN201",
            name,
            say(
                "the running mean or variance is NaN or infinite in {count} of {channels} channels: {which}",
                count=int(bad.sum()),
                channels=len(bad),
                which=named(bad),
            ),
            evidence={
                "channels": len(bad),
                "not_finite": int(bad.sum()),
                "running_mean": int(mean.sum()),
                "running_var": int(variance.sum()),
                "first": first(bad),
            },
            remedy=say(
                "Leave out the batch that is not finite, then measure the statistics again with "
                "xhat.recalibrate_(model, batches)."
            ),
            repairable=name in case.norms,
        )


RULE = Rule("BN201", "statistics-not-finite", check, repair=recalibrate)
