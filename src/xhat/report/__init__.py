"""The report: a study as one self-contained page, and as tidy tables."""

from xhat.report.build import build_page, write_page
from xhat.report.export import study_tables, write_tables
from xhat.report.runs import run_tables

__all__ = ["build_page", "run_tables", "study_tables", "write_page", "write_tables"]
