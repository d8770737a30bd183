"""Mend what can be mended by itself."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy as shallow
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from xhat.batches import Forward, can_repeat, device_of, each_batch
from xhat.doctor.diagnose import diagnose
from xhat.doctor.finding import Diagnosis, Finding
from xhat.doctor.observe import LIMIT
from xhat.doctor.rule import Rule, Treatment
from xhat.doctor.rules import RULES
from xhat.doctor.rules._recalibration import recalibrate
from xhat.doctor.watch import Watched
from xhat.errors import UsageError, unknown
from xhat.lang import say
from xhat.surgery._copies import copied, outputs_of
from xhat.surgery._recalibrate.ranks import Ranks
from xhat.surgery._trial import max_abs_error
from xhat.surgery.result import Change, Refusal, Surgery


@dataclass(frozen=True, repr=False)
class Repair(Surgery):
    """A mended copy of a model, with its diagnosis before and after."""

    before: Diagnosis = field(kw_only=True)
    after: Diagnosis = field(kw_only=True)

    @property
    def counts(self) -> tuple[int, int]:
        """How many findings there were, and are, of the rules that the first diagnosis applied."""
        new = {skipped.code for skipped in self.before.skipped}
        return len(self.before.findings), sum(f.code not in new for f in self.after.findings)

    def __repr__(self) -> str:
        before, after = self.counts
        seen = f"{before} findings before, {after} after"
        return f"Repair({len(self.changes)} changed, {len(self.refusals)} refused; {seen})"


def repair(
    model: nn.Module,
    diagnosis: Diagnosis,
    *inputs: Any,
    codes: Sequence[str] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    batches: Iterable[Any] | None = None,
    forward: Forward | None = None,
    optimizer: Optimizer | None = None,
    watched: Watched | None = None,
    process_group: ProcessGroup | None = None,
    progress: bool = False,
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
        optimizer: The one that trains the model, for the second diagnosis.
        watched: What ``xhat.watch`` saw of the model, for the second diagnosis.
        process_group: Ranks of ``torch.distributed`` that diagnosed together, by default all; every rank has to
            call this function, and statistics are repaired on all if on one.
        progress: Draw a progress bar on stderr, if that is a terminal.

    Returns:
        The copy. ``changes`` says what was done, ``refusals`` lists findings that stay, with the remedy where
        code has to change. ``max_abs_error`` compares outputs on the inputs in evaluation mode if every change
        was one that keeps them; else it is None. ``after`` holds also findings of the first diagnosis whose rules
        could not be applied again and that no change mended; a note names them.

    Raises:
        UsageError: a code that does not exist, or only some ranks have batches.
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
    treated: list[Finding] = []
    repairs = _repairs(f for f in diagnosis.findings if _is_asked(f, codes))
    for mend, findings in _of_all_ranks(repairs, Ranks(process_group, device_of(model)), batches is not None):
        done = mend(
            Treatment(
                mended,
                tuple(findings),
                *arguments,
                batches,
                forward,
                process_group=process_group,
                progress=progress,
            )
        )
        mended = done.model
        changes += done.changes
        refusals += done.refusals
        changed = {change.module for change in done.changes}
        treated += [finding for finding in findings if finding.module in changed]
        compared = compared and (not done.changes or all(RULES[f.code].keeps_outputs for f in findings))
    after = diagnose(
        mended,
        batches,
        optimizer=None if optimizer is None else _of_copy(optimizer, model, mended),
        watched=watched,
        forward=forward,
        limit=diagnosis.batches or LIMIT,
        process_group=process_group,
        progress=progress,
    )
    return Repair(
        mended,
        tuple(changes),
        tuple(refusals),
        max_abs_error(before, outputs_of(mended, arguments)) if compared else None,
        before=diagnosis,
        after=_with_unseen(after, [f for f in diagnosis.findings if f not in treated]),
    )


def _with_unseen(after: Diagnosis, left: Sequence[Finding]) -> Diagnosis:
    """Return the second diagnosis with what is left of the first and could not be looked at again."""
    skipped = {each.code for each in after.skipped}
    unseen = [finding for finding in left if finding.code in skipped]
    if not unseen:
        return after
    codes = dict.fromkeys(finding.code for finding in unseen)
    note = say(
        "Kept from the first diagnosis, since the rule could not be applied again: {codes}.",
        codes=", ".join(codes),
    )
    findings = sorted((*after.findings, *unseen), key=lambda f: (-f.severity.rank, f.code))
    return replace(after, findings=tuple(findings), notes=(*after.notes, note))


def _of_copy(optimizer: Optimizer, model: nn.Module, copy: nn.Module) -> Optimizer:
    """Return the optimizer as it would hold the copy's parameters."""
    while isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module  # as ``copied`` does
    new = dict(copy.named_parameters(remove_duplicate=False))
    names = {parameter: name for name, parameter in model.named_parameters(remove_duplicate=False)}
    moved = shallow(optimizer)
    moved.param_groups = [
        {**group, "params": [new[names[p]] if names.get(p) in new else p for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    return moved


Mend = Callable[[Treatment], Surgery]


def _repairs(findings: Iterable[Finding]) -> list[tuple[Mend, list[Finding]]]:
    """Return repairs with the findings of each, statistics last: other repairs change what they are of."""
    found: dict[Mend, list[Finding]] = {}
    for finding in findings:
        rule: Rule = RULES[finding.code]
        assert rule.repair is not None
        found.setdefault(rule.repair, []).append(finding)
    return sorted(found.items(), key=lambda item: (item[0] is recalibrate, item[1][0].code))


def _of_all_ranks(
    repairs: list[tuple[Mend, list[Finding]]], ranks: Ranks, has_batches: bool
) -> list[tuple[Mend, list[Finding]]]:
    """Return the repairs, with the one that all ranks do together if any rank needs it."""
    wanted = any(mend is recalibrate for mend, _ in repairs)
    own = torch.tensor([float(wanted), float(has_batches)])
    told = ranks.share(lambda: own, 2, what="the repair")
    if len({bool(have) for _, have in told}) > 1:
        raise UsageError("some ranks repair with batches and some without: give all of them batches, or none")
    if not wanted and any(bool(want) for want, _ in told):
        repairs = [*repairs, (recalibrate, [])]
    return repairs


def _is_asked(finding: Finding, codes: Sequence[str] | None) -> bool:
    return finding.repairable and (codes is None or finding.code in codes)


def _reason(finding: Finding, codes: Sequence[str] | None) -> str:
    if finding.repairable:
        return say("{code} was not asked for", code=finding.code)
    return say("{code} has no repair by itself. {remedy}", code=finding.code, remedy=finding.remedy)
