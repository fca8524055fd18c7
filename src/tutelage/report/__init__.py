"""The page of a run: a verdict, numbers, pictures. Reads nothing but the run folder."""

from tutelage.report.page import write_report
from tutelage.report.verdict import Verdict, verdict

__all__ = ["Verdict", "verdict", "write_report"]
