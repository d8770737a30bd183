"""The report: a study, or a diagnosis, as one self-contained page; tidy tables, JSON and SARIF."""

from xhat.report._texts import texts_of, translated
from xhat.report.build import build_page, write_page, write_pages
from xhat.report.doctor_page import build_doctor_page, write_doctor_page
from xhat.report.evidence import shipped, write_shipped
from xhat.report.export import study_tables, write_tables
from xhat.report.machine import to_json, to_sarif
from xhat.report.runs import run_tables

__all__ = [
    "build_doctor_page",
    "build_page",
    "run_tables",
    "shipped",
    "study_tables",
    "texts_of",
    "to_json",
    "to_sarif",
    "translated",
    "write_doctor_page",
    "write_page",
    "write_pages",
    "write_shipped",
    "write_tables",
]
