"""The quality report of a version: figures from its frozen copy, on one self-contained page."""

from pipelines.report.page import write_report

__all__ = ["write_report"]
