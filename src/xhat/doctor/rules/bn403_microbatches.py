"""Gradients are accumulated over microbatches, each normalised by itself.

Looked for, in the steps that `xhat.watch` saw: two or more forward and backward passes with different inputs before
each optimizer step. A warning where a microbatch gives some norm fewer than 16 values a channel, or holds one or two
samples; information otherwise.

Why it harms: accumulation makes the gradient that of the large batch, but batch norm's mean and variance are those
of each small one. Training is not that of the large batch: with m values the mean is off by σ/√m. The running
statistics are updated once a microbatch, which shortens their average in steps.

Source: Ioffe and Szegedy 2015, sec. 3.1; Hoffer et al. 2017, arXiv 1705.08741, on statistics over small chunks of a
large batch; Wu and He 2018, arXiv 1803.08494, figure 1, on small ones.

Remedy: larger microbatches, or a normalisation that does not look at the batch, or frozen statistics:

    xhat.convert_group_norm(model)
    xhat.freeze_(model)

Repair: none; the training code has to change.
"""

from collections.abc import Iterator
from statistics import median

from xhat.doctor.case import Case
from xhat.doctor.finding import Finding, Severity
from xhat.doctor.rule import Rule, found
from xhat.doctor.rules._few import is_few
from xhat.lang import say

FEW_SAMPLES = 2


def check(case: Case) -> Iterator[Finding]:
    """Count the different inputs and the backward passes of each step."""
    watched = case.watched
    assert watched is not None
    found_in: dict[str, tuple[float, float, float]] = {}
    for name in watched.norms:
        steps = zip(watched.of_steps(name), watched.backwards, strict=True)
        parts = [
            (min(len({each.fingerprint for each in step if not each.recomputed}), back), step)
            for step, back in steps
            if step
        ]
        count = median([number for number, _ in parts]) if parts else 0
        if count >= 2:
            passes = [each for _, step in parts for each in step]
            found_in[name] = (
                count,
                median([each.values for each in passes]),
                median([each.samples for each in passes]),
            )
    if not found_in:
        return
    worst = min(found_in, key=lambda name: found_in[name][1])
    count, values, samples = found_in[worst]
    few = is_few(values) or samples <= FEW_SAMPLES
    yield found(
        "BN403",
        "",
        say(
            "{count:g} microbatches per optimizer step, each normalised by itself: {samples:g} samples, in {worst} "
            "{values:g} values a channel, not {all:g}",
            count=count,
            samples=samples,
            worst=worst,
            values=values,
            all=count * values,
        ),
        evidence={
            "microbatches": count,
            "values": values,
            "samples": samples,
            "norms": list(found_in),
        },
        remedy=say("Use larger microbatches, xhat.convert_group_norm, or xhat.freeze_ when fine-tuning.")
        if few
        else say("Nothing has to change; know that the batch norms' batch is the microbatch."),
        severity=Severity.warning if few else Severity.info,
    )


RULE = Rule("BN403", "microbatches", check, needs=frozenset({"watched"}))
