"""Apply all rules to a model."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from xhat.batches import Forward, device_of, each_batch, run_batch
from xhat.dataflow import record
from xhat.doctor.case import Case
from xhat.doctor.finding import Diagnosis, Finding, Severity, Skipped
from xhat.doctor.observe import LIMIT, observe
from xhat.doctor.rule import NEEDS, Rule
from xhat.doctor.rules import RULES
from xhat.doctor.watch import Watched
from xhat.errors import ModelError, UsageError
from xhat.lang import listed, say
from xhat.norms import is_uninitialised
from xhat.surgery._recalibrate.ranks import Ranks
from xhat.unchanged import unchanged


def diagnose(
    model: nn.Module,
    batches: Iterable[Any] | None = None,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    watched: Watched | None = None,
    forward: Forward | None = None,
    limit: int | None = LIMIT,
    process_group: ProcessGroup | None = None,
    progress: bool = False,
) -> Diagnosis:
    """Find what is wrong with the batch norms of a model; the model comes out bit for bit as it went in.

    Without batches the rules on parameters, buffers and settings are applied. Batches, the optimizer and what
    ``xhat.watch`` saw add those that need them; ``Diagnosis.skipped`` lists the others.

    Args:
        model: Any network, in any mode.
        batches: An iterable of batches as the model is trained on: a DataLoader, or a list. Of a tuple the
            first item is the input, the second the target.
        optimizer: The one that trains the model.
        watched: What ``with xhat.watch(model) as watched`` saw.
        forward: ``forward(model, batch)`` where a batch is not simply the model's input.
        limit: Batches to look at, 16 by default; None takes all.
        process_group: Ranks of ``torch.distributed`` that diagnose together, by default all; every rank has to
            call this function.
        progress: Draw a progress bar on stderr, if that is a terminal.

    Raises:
        ModelError: the model raises on the batches, or has a lazy norm that has not seen an input.
        UsageError, DataError: arguments or batches are of the wrong kind, or there are none, or another rank
            failed.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is a {type(model).__name__}; a torch.nn.Module is needed")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise UsageError(f"optimizer is a {type(optimizer).__name__}; a torch.optim.Optimizer is needed")
    ranks = Ranks(process_group, device_of(model))
    case = Case.of(
        model,
        optimizer=optimizer,
        watched=watched,
        process_group=process_group,
        world_size=ranks.size,
    )
    for name, module in case.norms.items():
        if is_uninitialised(module):
            raise ModelError(
                f"{name} is a lazy batch norm that has not seen an input, so it has no channels yet: "
                "run the model once before it is diagnosed"
            )
    if not case.norms and not case.fixed:
        return Diagnosis((), notes=(say("The model has no batch norm."),))
    with unchanged(model):
        given: list[Any] = []

        def look() -> Tensor:
            nonlocal case
            if batches is not None:
                given.extend(each_batch(batches, limit=limit))
                try:
                    case = _looked_at(case, given, forward, progress=progress)
                except ModelError as error:
                    raise _with_findings(error, case) from error.__cause__
            return torch.tensor([float(bool(given))])

        # A rank that fails here tells the others, which would wait for it in a rule that gathers.
        if len({bool(have) for have in ranks.share(look, 1, what="the diagnosis")}) > 1:
            raise UsageError(
                "some ranks diagnose with batches and some without: give all of them batches, or none"
            )
        return _apply(RULES, case, batches=len(given))


def _with_findings(error: ModelError, case: Case) -> ModelError:
    """Return the error with what is found without running the model, which may be its cause."""
    # Rules that gather over ranks would wait for those that did not fail.
    alone = {code: rule for code, rule in RULES.items() if not rule.needs}
    plain = _apply(alone, case, batches=0).at_least(Severity.warning)
    seen = dict.fromkeys(
        f"{finding.code} {finding.module or '(model)'}: {finding.message}" for finding in plain
    )
    return ModelError(f"{error} Found without running it: {'; '.join(list(seen)[:3])}.") if seen else error


def _looked_at(case: Case, batches: list[Any], forward: Forward | None, *, progress: bool) -> Case:
    """Return the case with what its batches show: the data flow of the first, numbers of all."""
    first = batches[0]
    recording = record(case.model, call=lambda model: run_batch(model, first, forward))
    observed = observe(case.model, batches, forward=forward, limit=None, progress=progress)
    return replace(case, batch=first, recording=recording, observed=observed)


def _apply(rules: Mapping[str, Rule], case: Case, *, batches: int) -> Diagnosis:
    """Apply the rules whose needs the case has; what others explain is left out, with a note."""
    found: list[Finding] = []
    skipped = []
    for rule in rules.values():
        missing = sorted(need for need in rule.needs if not case.has(need))
        if missing:
            reasons = dict.fromkeys(NEEDS[need] for need in missing)
            skipped.append(Skipped(rule.code, listed(reasons)))
        else:
            found += rule.check(case)
    kept, notes = _unexplained(rules, found)
    order = {name: place for place, (name, _) in enumerate(case.model.named_modules())}
    kept.sort(key=lambda f: (-f.severity.rank, f.code, order.get(f.module, -1)))
    return Diagnosis(tuple(kept), tuple(skipped), len(case.norms), batches, tuple(notes))


def _unexplained(rules: Mapping[str, Rule], found: list[Finding]) -> tuple[list[Finding], list[str]]:
    fired = {finding.code for finding in found if finding.severity.rank >= Severity.warning.rank}
    explained = {
        code: by
        for code in dict.fromkeys(finding.code for finding in found)
        if (by := [other for other in rules[code].explained_by if other in fired])
    }
    notes = [
        say(
            "Left out, since {by} explains them: {count} of {code}.",
            count=sum(finding.code == code for finding in found),
            code=code,
            by=listed(by, " and "),
        )
        for code, by in explained.items()
    ]
    return [finding for finding in found if finding.code not in explained], list(notes)
