"""Running variance is negative.

Looked for: a running variance below zero, in any channel.

Why it harms: evaluation divides by √(running_var + eps). Below −eps that is NaN; between −eps and 0 the
channel is enlarged, by more and more towards −eps.

Source: variances come out negative where they are computed as E[x²] − E[x]² in float32 and the mean is large,
where weights of several models are extrapolated or averaged with negative factors, and where a checkpoint was
quantised.

Remedy: measure the statistics again, by a method that cannot give a negative variance:

    xhat.recalibrate_(model, batches)

Repair: `xhat.repair(model, diagnosis, batches=…)` recalibrates.
"""

from collections.abc import Iterator

from xhat.doctor.case import Case
from xhat.doctor.finding import Finding
from xhat.doctor.rule import Rule, found
from xhat.doctor.rules._channels import first, named
from xhat.doctor.rules._recalibration import recalibrate
from xhat.lang import say


def check(case: Case) -> Iterator[Finding]:
    """Find norms with a running variance below zero."""
    for name, has in case.with_statistics().items():
        bad = (has.variance < 0) & has.variance.isfinite()
        if not bad.any():
            continue
        yield found(
            "BN202",
            name,
            say(
                "running_var is negative in {count} of {channels} channels ({which}), the lowest {lowest:.3g}",
                count=int(bad.sum()),
                channels=len(bad),
                which=named(bad),
                lowest=float(has.variance[bad].min()),
            ),
            evidence={
                "channels": len(bad),
                "negative": int(bad.sum()),
                "not_a_number": int((bad & (has.variance + has.eps < 0)).sum()),
                "lowest": float(has.variance[bad].min()),
                "first": first(bad),
            },
            remedy=say("Measure the statistics again with xhat.recalibrate_(model, batches)."),
            repairable=name in case.norms,
        )


RULE = Rule("BN202", "negative-variance", check, repair=recalibrate)
