"""What a rule is: a check, what it needs, the page that explains it, and the repair where one is safe."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn
from torch.distributed import ProcessGroup

from xhat.doctor.case import Case
from xhat.doctor.finding import Finding, Severity
from xhat.doctor.severities import severities_of
from xhat.lang import with_names
from xhat.surgery.result import Surgery

# What a rule may need, and how a caller gives it.
NEEDS: Mapping[str, str] = {
    "flow": "needs batches",
    "batches": "needs batches",
    "optimizer": "needs the optimizer",
    "watched": "needs xhat.watch around a few training steps",
    "ranks": "needs several ranks of torch.distributed",
}


@dataclass(frozen=True)
class Treatment:
    """What a repair works on."""

    model: nn.Module  # a copy, which may be changed in place
    findings: tuple[Finding, ...]  # the repairable ones; none where only other ranks have some
    inputs: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    batches: Iterable[Any] | None = None  # can be gone through again
    forward: Callable[[nn.Module, Any], Any] | None = None
    process_group: ProcessGroup | None = None
    progress: bool = False  # whether to show a bar


@dataclass(frozen=True)
class Rule:
    """One rule; the docstring of the module that ``check`` stands in explains it."""

    code: str  # as BN302
    name: str  # kebab-case
    check: Callable[[Case], Iterable[Finding]]
    needs: frozenset[str] = frozenset()  # of NEEDS
    repair: Callable[[Treatment], Surgery] | None = None
    repairs: Literal["state", "structure"] = "state"  # whether a state_dict holds the whole repair
    keeps_outputs: bool = False  # whether the repair leaves outputs in evaluation mode as they were
    # Where one of these codes has a finding at warning or above, this rule's findings follow from it.
    explained_by: tuple[str, ...] = ()

    @property
    def page(self) -> tuple[str, ...]:
        """The title, without a full stop, and the paragraphs of the explanation; code keeps its lines."""
        words = inspect.cleandoc(inspect.getmodule(self.check).__doc__ or "")
        title, _, body = words.partition("\n")
        paragraphs = (part.strip("\n") for part in body.split("\n\n"))
        return (title.rstrip("."), *(_flowing(part) for part in paragraphs if part.strip()))


def found(
    code: str,
    module: str,
    message: str,
    *,
    evidence: Mapping[str, Any],
    remedy: str,
    severity: Severity | None = None,
    repairable: bool = False,
) -> Finding:
    """Return a finding, its severity held to the table.

    Args:
        code: The rule's.
        module: Full name; empty for the model as a whole.
        message: What was seen, with its numbers: a ``say("…")``; plain strings in it are names.
        evidence: The numbers, plain.
        remedy: What to do: a ``say("…")``.
        severity: One of the code's; needed where it has more than one.
        repairable: Whether the rule's repair mends this finding.

    Raises:
        ValueError: the table does not have that severity for the code, or has several and none was given.
    """
    allowed = severities_of(code)
    if severity is None and len(allowed) == 1:
        severity = allowed[0]
    if severity not in allowed:
        raise ValueError(f"{code} has severities {', '.join(allowed)}, not {severity}")
    return Finding(code, severity, module, with_names(message), dict(evidence), remedy, repairable)


def _flowing(paragraph: str) -> str:
    """Join a paragraph's lines; an indented one is code and stays."""
    if paragraph.startswith("    "):
        return paragraph
    return " ".join(paragraph.split())
