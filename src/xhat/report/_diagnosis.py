"""A diagnosis as terminals and pages group it: what was found of one rule stands together."""

from collections.abc import Iterable
from dataclasses import dataclass

from xhat.doctor import RULES, Diagnosis, Finding, Severity


@dataclass(frozen=True)
class Group:
    """Findings of one rule and one severity, with the same remedy."""

    code: str
    severity: Severity
    title: str  # of the rule's page
    remedy: str
    findings: tuple[Finding, ...]

    @property
    def repairable(self) -> bool:
        """Whether ``xhat.repair`` mends at least one of them."""
        return any(finding.repairable for finding in self.findings)


def groups(findings: Iterable[Finding]) -> list[Group]:
    """Return the findings by rule, severity and remedy, in the order that they have."""
    held: dict[tuple[str, Severity, str], list[Finding]] = {}
    for finding in findings:
        held.setdefault((finding.code, finding.severity, finding.remedy), []).append(finding)
    return [
        Group(code, severity, RULES[code].page[0], remedy, tuple(found))
        for (code, severity, remedy), found in held.items()
    ]


def skipped_by_reason(diagnosis: Diagnosis) -> dict[str, list[str]]:
    """Return the codes of rules that were not applied, by what they need."""
    held: dict[str, list[str]] = {}
    for skipped in diagnosis.skipped:
        held.setdefault(skipped.reason, []).append(skipped.code)
    return held


def counts(diagnosis: Diagnosis) -> dict[str, int]:
    """Return how many findings there are of each severity, the worst first."""
    worst_first = sorted(Severity, key=lambda severity: -severity.rank)
    return {
        severity.value: sum(finding.severity is severity for finding in diagnosis.findings)
        for severity in worst_first
    }
