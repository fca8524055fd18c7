"""The page of a run: a verdict, numbers, pictures. Reads only the run folder, and of a first run the second's settings."""

from tutelage.report.page import write_report
from tutelage.report.verdict import Verdict, verdict

__all__ = ["Verdict", "verdict", "write_report"]
