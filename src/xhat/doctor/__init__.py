"""Find what is wrong with the batch norms of a model: ``diagnose``, ``watch``, ``repair``."""

from xhat.doctor.diagnose import diagnose
from xhat.doctor.finding import Diagnosis, Finding, Severity, Skipped

__all__ = ["Diagnosis", "Finding", "Severity", "Skipped", "diagnose"]
