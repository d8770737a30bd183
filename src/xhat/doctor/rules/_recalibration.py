"""Mend running statistics by measuring them again."""

from typing import Any

from xhat.doctor.rule import Treatment
from xhat.lang import say
from xhat.norms import batch_norms
from xhat.surgery.result import Change, Refusal, Surgery


def recalibrate(given: Treatment) -> Surgery:
    """Set the statistics of all norms to those of the batches; without batches the findings are refused.

    All norms, since a norm's statistics hang on what the norms before it do.
    """
    names = [finding.module for finding in given.findings]
    if given.batches is None:
        reason = say("statistics are measured on batches: give repair(…, batches=…) those of training")
        return Surgery(given.model, (), tuple(Refusal(name, reason) for name in names), None)
    from xhat.surgery import recalibrate_

    for name in names:
        _make_finite(batch_norms(given.model)[name])
    recalibrate_(given.model, given.batches, forward=given.forward)
    changes = tuple(Change(name, say("statistics recalibrated on the batches")) for name in names)
    return Surgery(given.model, changes, (), None)


def _make_finite(module: Any) -> None:
    """Start from the statistics of a new norm: an infinite mean would outlast any average."""
    module.reset_running_stats()
