"""Mend what can be mended by itself."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from xhat.batches import Forward, can_repeat, each_batch
from xhat.doctor.diagnose import diagnose
from xhat.doctor.finding import Diagnosis, Finding
from xhat.doctor.observe import LIMIT
from xhat.doctor.rule import Rule, Treatment
from xhat.doctor.rules import RULES
from xhat.doctor.rules._recalibration import recalibrate
from xhat.errors import unknown
from xhat.lang import say
from xhat.surgery._copies import copied, outputs_of
from xhat.surgery._trial import max_abs_error
from xhat.surgery.result import Change, Refusal, Surgery


@dataclass(frozen=True, repr=False)
class Repair(Surgery):
    """A mended copy of a model, with its diagnosis before and after."""

    before: Diagnosis = field(kw_only=True)
    after: Diagnosis = field(kw_only=True)

    def __repr__(self) -> str:
        seen = f"{len(self.before.findings)} findings before, {len(self.after.findings)} after"
        return f"Repair({len(self.changes)} changed, {len(self.refusals)} refused; {seen})"


def repair(
    model: nn.Module,
    diagnosis: Diagnosis,
    *inputs: Any,
    codes: Sequence[str] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    batches: Iterable[Any] | None = None,
    forward: Forward | None = None,
) -> Repair:
    """Return a copy in which the findings that have a safe repair are mended, and diagnose it again.

    Each rule's page says what its repair does: ``xhat explain BN302``. Statistics are repaired last, on the
    batches.

    Args:
        model: The model that was diagnosed; it is left as it is.
        diagnosis: What ``xhat.diagnose`` found in it.
        inputs: The model's example arguments, for repairs that need the data flow, and to compare outputs.
        codes: Rules to repair, as ``["BN101"]``; by default all that have a repair.
        kwargs: Example keyword arguments.
        batches: Batches as the model is trained on, for repairs of statistics and for the second diagnosis.
        forward: ``forward(model, batch)`` where a batch is not simply the model's input.

    Returns:
        The copy. ``changes`` says what was done, ``refusals`` lists findings that stay, with the remedy where
        code has to change. ``max_abs_error`` compares outputs on the inputs in evaluation mode if every change
        was one that keeps them; else it is None.

    Raises:
        UsageError: a code that does not exist.
        ModelError: the model cannot be copied, or raises.
    """
    for code in codes or ():
        if code not in RULES:
            raise unknown("rule", code, RULES)
    if batches is not None and not can_repeat(batches):
        batches = list(each_batch(batches))
    arguments = (inputs, dict(kwargs or {}))
    compared = bool(inputs or kwargs)
    mended = copied(model)
    before = outputs_of(mended, arguments) if compared else []
    changes: list[Change] = []
    refusals = [Refusal(f.module, _reason(f, codes)) for f in diagnosis.findings if not _is_asked(f, codes)]
    for mend, findings in _repairs(f for f in diagnosis.findings if _is_asked(f, codes)):
        done = mend(Treatment(mended, tuple(findings), *arguments, batches, forward))
        mended = done.model
        changes += done.changes
        refusals += done.refusals
        compared = compared and (not done.changes or all(RULES[f.code].keeps_outputs for f in findings))
    return Repair(
        mended,
        tuple(changes),
        tuple(refusals),
        max_abs_error(before, outputs_of(mended, arguments)) if compared else None,
        before=diagnosis,
        after=diagnose(mended, batches, forward=forward, limit=diagnosis.batches or LIMIT),
    )


Mend = Callable[[Treatment], Surgery]


def _repairs(findings: Iterable[Finding]) -> list[tuple[Mend, list[Finding]]]:
    """Return repairs with the findings of each, statistics last: other repairs change what they are of."""
    found: dict[Mend, list[Finding]] = {}
    for finding in findings:
        rule: Rule = RULES[finding.code]
        assert rule.repair is not None
        found.setdefault(rule.repair, []).append(finding)
    return sorted(found.items(), key=lambda item: (item[0] is recalibrate, item[1][0].code))


def _is_asked(finding: Finding, codes: Sequence[str] | None) -> bool:
    return finding.repairable and (codes is None or finding.code in codes)


def _reason(finding: Finding, codes: Sequence[str] | None) -> str:
    if finding.repairable:
        return say("{code} was not asked for", code=finding.code)
    return say("{code} has no repair by itself. {remedy}", code=finding.code, remedy=finding.remedy)
