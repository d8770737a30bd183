"""Statistics are updated more than once per optimizer step.

Looked for, in the steps that `xhat.watch` saw: forwards in training mode that updated the running statistics again
before the next optimizer step. A warning where the batch was the same: run again inside the backward pass, as
activation checkpointing does, or given to the model again, as SAM's second pass. Information where a further forward
had another input and no backward pass of its own, as a second view for a consistency loss.

Why it harms: each pass moves the running statistics by the share `momentum`. With two passes per batch the average is
over half as many batches (0.19 instead of 0.1 a step), and it counts passes that are no data, such as those at SAM's
perturbed weights.

Source: pytorch issue 46516; torch.utils.checkpoint's recomputation runs the forward of every module in it again.

Remedy: let each step update once:

    with xhat.update_once(model):
        train(model)

Repair: none; the training code has to change. `xhat.recalibrate_` mends the statistics themselves.
"""

import math
from collections.abc import Iterator, Sequence
from statistics import median

from xhat.doctor.case import Case
from xhat.doctor.finding import Finding, Severity
from xhat.doctor.rule import Rule, found
from xhat.doctor.watch import Pass
from xhat.lang import listed, say

SHOWN = 3


def check(case: Case) -> Iterator[Finding]:
    """Count the updates that each step made of the same batch, and of further ones."""
    watched = case.watched
    assert watched is not None
    again: dict[str, float] = {}
    further: dict[str, float] = {}
    recomputed = False
    for name in watched.norms:
        steps = [
            (step, back) for step, back in zip(watched.of_steps(name), watched.backwards, strict=True) if step
        ]
        if not steps:
            continue
        repeats = median([_repeated(step) for step, _ in steps])
        others = median([_without_backward(step, back) for step, back in steps])
        if repeats > 0:
            again[name] = repeats
            recomputed = recomputed or any(p.recomputed and p.updated for step, _ in steps for p in step)
        elif others > 0:
            further[name] = others
    if again:
        yield found(
            "BN402",
            next(iter(again)) if len(again) == 1 else "",
            say(
                "{count} norms update their running statistics again with the same batch before the optimizer steps, "
                "{how}: {names}",
                count=len(again),
                how=say("within the backward pass (checkpointing)")
                if recomputed
                else say("in further forwards"),
                names=_some(again),
            ),
            evidence={
                "norms": list(again),
                "repeated_updates_a_step": list(again.values()),
                "recomputed": recomputed,
            },
            remedy=say("Train inside with xhat.update_once(model)."),
            severity=Severity.warning,
        )
    if further:
        yield found(
            "BN402",
            next(iter(further)) if len(further) == 1 else "",
            say(
                "{count} norms update their running statistics with further inputs before the optimizer steps: {names}",
                count=len(further),
                names=_some(further),
            ),
            evidence={"norms": list(further), "further_updates_a_step": list(further.values())},
            remedy=say(
                "If evaluation is to know the first input only, train inside with xhat.update_once(model)."
            ),
            severity=Severity.info,
        )


def _repeated(step: Sequence[Pass]) -> int:
    """Return updates with a batch that the step had before."""
    seen: set[float] = set()
    count = 0
    for each in step:
        same = each.recomputed or (not math.isnan(each.fingerprint) and each.fingerprint in seen)
        count += each.updated and same
        if not each.recomputed:
            seen.add(each.fingerprint)
    return count


def _without_backward(step: Sequence[Pass], backwards: int) -> int:
    """Return updates beyond one for each backward pass."""
    return max(sum(each.updated and not each.recomputed for each in step) - max(backwards, 1), 0)


def _some(names: dict[str, float]) -> str:
    shown = list(names)[:SHOWN]
    return listed([*shown, *(["…"] if len(names) > SHOWN else [])], ", ")


RULE = Rule("BN402", "updated-more-than-once", check, needs=frozenset({"watched"}))
