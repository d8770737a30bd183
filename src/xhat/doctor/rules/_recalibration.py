"""Mend running statistics by measuring them again."""

from xhat.doctor.rule import Treatment
from xhat.lang import say
from xhat.surgery import recalibrate_
from xhat.surgery.result import Change, Refusal, Surgery


def recalibrate(given: Treatment) -> Surgery:
    """Set the statistics of all norms to those of the batches; without batches the findings are refused.

    All norms, since a norm's statistics depend on what the norms before it do. On several ranks each has to call it.
    """
    found = (finding.evidence.get("norms", [finding.module]) for finding in given.findings)
    names = list(dict.fromkeys(name for names in found for name in names))
    if given.batches is None:
        reason = say("statistics are measured on batches: give repair(…, batches=…) those of training")
        return Surgery(given.model, (), tuple(Refusal(name, reason) for name in names), None)
    done = recalibrate_(
        given.model,
        given.batches,
        forward=given.forward,
        process_group=given.process_group,
        progress=given.progress,
    )
    changes = tuple(
        Change(name, say("statistics recalibrated on {count} batches", count=done.batches))
        for name in done.layers
    )
    refusals = tuple(Refusal(name, done.kept[name]) for name in names if name in done.kept)
    return Surgery(given.model, changes, refusals, None)
