"""Running statistics were never updated.

Looked for: a running mean of exactly 0 and a running variance of exactly 1 in every channel, which is how a
norm is made. `num_batches_tracked` is not asked: old checkpoints have real statistics and a count of 0. A
norm that the model does not call in evaluation mode is passed over, where batches were given. If all norms
are as they were made, γ and β too, the model is new rather than broken, and that is one warning for the whole
model.

Why it harms: in evaluation mode such a norm does not normalise: it divides by √(1 + eps). The layers behind
it were trained on normalised values.

Source: it happens where a norm is always in evaluation mode while its weights train, with `momentum=0.0`,
where weights were loaded with `strict=False` from a file without buffers, and where only parameters are
averaged or saved (`model.parameters()` has no buffers; timm issues 102 and 106 are about averages of weights
and BN).

Remedy: measure the statistics, and mend what kept them from being updated or saved (save
`model.state_dict()`):

    xhat.recalibrate_(model, batches)

Repair: `xhat.repair(model, diagnosis, batches=…)` recalibrates.
"""

from collections.abc import Iterator

from xhat.doctor.case import Case, Statistics
from xhat.doctor.finding import Finding, Severity
from xhat.doctor.rule import Rule, found
from xhat.doctor.rules._recalibration import recalibrate
from xhat.lang import say


def check(case: Case) -> Iterator[Finding]:
    """Find norms whose statistics are those of a new norm."""
    held = {name: has for name, has in case.with_statistics().items() if name in case.norms}
    new = [name for name, has in held.items() if _is_new(has) and _is_called(case, name)]
    if new and all(_is_new(has) and _is_plain(has) for has in held.values()):
        yield found(
            "BN203",
            "",
            say(
                "none of the {count} batch norms was ever trained: statistics, γ and β are as they were made",
                count=len(held),
            ),
            evidence={"batch_norms": len(held), "new": len(new)},
            remedy=say("Diagnose the trained model; name its weights, with --weights in the command."),
            severity=Severity.warning,
        )
        return
    for name in new:
        yield found(
            "BN203",
            name,
            say(
                "running_mean is 0 and running_var is 1 in all {channels} channels, as in a new norm "
                "(num_batches_tracked: {tracked})",
                channels=len(held[name].mean),
                tracked=_tracked(case, name),
            ),
            evidence={
                "channels": len(held[name].mean),
                "num_batches_tracked": _tracked(case, name),
                "momentum": case.norms[name].momentum,
            },
            remedy=say(
                "Measure the statistics with xhat.recalibrate_(model, batches), and see why they were not updated or "
                "not saved: the norm was in evaluation mode, momentum is 0, or only parameters were saved."
            ),
            severity=Severity.error,
            repairable=True,
        )


def _is_new(has: Statistics) -> bool:
    return bool((has.mean == 0).all() and (has.variance == 1).all())


def _is_plain(has: Statistics) -> bool:
    return bool((has.weight == 1).all() and (has.bias == 0).all())


def _is_called(case: Case, name: str) -> bool:
    """Whether evaluation uses the norm; without a recording it is taken to."""
    if case.recording is None or case.recording.eval is None:
        return True
    return bool(case.recording.eval.calls.get(name))


def _tracked(case: Case, name: str) -> int:
    count = case.norms[name].num_batches_tracked
    return 0 if count is None else int(count)


RULE = Rule("BN203", "statistics-never-updated", check, repair=recalibrate)
