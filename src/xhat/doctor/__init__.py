"""Find what is wrong with the batch norms of a model: ``diagnose``, ``watch``, ``repair``."""

from xhat.doctor.case import Case
from xhat.doctor.diagnose import diagnose
from xhat.doctor.finding import Diagnosis, Finding, Severity, Skipped
from xhat.doctor.repair import Repair, repair
from xhat.doctor.rule import Rule, Treatment, found
from xhat.doctor.rules import RULES
from xhat.doctor.severities import SEVERITIES
from xhat.doctor.watch import Watched, watch

__all__ = [
    "RULES",
    "SEVERITIES",
    "Case",
    "Diagnosis",
    "Finding",
    "Repair",
    "Rule",
    "Severity",
    "Skipped",
    "Treatment",
    "Watched",
    "diagnose",
    "found",
    "repair",
    "watch",
]
