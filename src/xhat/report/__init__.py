"""The report: a study as one self-contained page, in several languages, and as tidy tables."""

from xhat.report._texts import texts_of, translated
from xhat.report.build import build_page, write_page, write_pages
from xhat.report.evidence import shipped, write_shipped
from xhat.report.export import study_tables, write_tables
from xhat.report.runs import run_tables

__all__ = [
    "build_page",
    "run_tables",
    "shipped",
    "study_tables",
    "texts_of",
    "translated",
    "write_page",
    "write_pages",
    "write_shipped",
    "write_tables",
]
