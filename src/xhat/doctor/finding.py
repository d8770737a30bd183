"""What the doctor says: findings, and the diagnosis that holds them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pandas as pd


class Severity(StrEnum):
    """How bad it is: worth knowing, likely harmful, or certainly wrong."""

    info = "info"
    warning = "warning"
    error = "error"

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for error."""
        return list(Severity).index(self)


@dataclass(frozen=True)
class Finding:
    """One thing that a rule found."""

    code: str  # as BN302
    severity: Severity
    module: str  # full name; empty for the model as a whole
    message: str  # what was seen, with its numbers
    # The numbers, by name: int, float, bool, str, None where there is no number, or lists of them.
    evidence: Mapping[str, Any]
    remedy: str  # what to do, with the code to write where code is to change
    repairable: bool = False  # whether xhat.repair mends it


@dataclass(frozen=True)
class Skipped:
    """A rule that could not be applied."""

    code: str
    reason: str  # what it needs, as “needs batches”


@dataclass(frozen=True)
class Diagnosis:
    """All findings, the worst first."""

    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...] = ()
    batch_norms: int = 0  # batch norms in the model
    batches: int = 0  # batches that were looked at
    notes: tuple[str, ...] = field(default=())  # what else the reader should know

    def at_least(self, severity: Severity | str) -> tuple[Finding, ...]:
        """Return the findings of that severity and above."""
        rank = Severity(severity).rank
        return tuple(finding for finding in self.findings if finding.severity.rank >= rank)

    def __repr__(self) -> str:
        if not self.batch_norms and not self.findings:
            return "Diagnosis: the model has no batch norm, so there was nothing to look at"
        head = f"Diagnosis of {_counted(self.batch_norms, 'batch norm')}: "
        head += _counted(len(self.findings), "finding")
        lines = [f"  {f.severity:7} {f.code} {f.module or '(model)'}: {f.message}" for f in self.findings]
        if self.skipped:
            reasons = dict.fromkeys(skipped.reason for skipped in self.skipped)
            lines.append(f"  {_counted(len(self.skipped), 'rule')} not applied: {'; '.join(reasons)}")
        return "\n".join([head, *lines])

    def to_frame(self) -> pd.DataFrame:
        """Return one row a finding: code, severity, module, message, remedy, repairable, and its evidence."""
        columns = ["code", "severity", "module", "message", "remedy", "repairable", "evidence"]
        rows = [
            (f.code, f.severity.value, f.module, f.message, f.remedy, f.repairable, dict(f.evidence))
            for f in self.findings
        ]
        return pd.DataFrame(rows, columns=columns)


def _counted(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
