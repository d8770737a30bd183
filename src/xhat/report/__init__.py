"""The report: a study as one self-contained page, and as tidy tables."""

from xhat.report.build import build_page, write_page
from xhat.report.export import study_tables, write_tables

__all__ = ["build_page", "study_tables", "write_page", "write_tables"]
