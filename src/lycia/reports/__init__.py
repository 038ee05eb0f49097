"""Reports: what a run was, as facts, as lines of metrics, and as one page to look at."""

from lycia.reports.cards import card
from lycia.reports.facts import RunFacts
from lycia.reports.figures import metric_lines, summary
from lycia.reports.pages import page
from lycia.reports.writing import write_report

__all__ = ["RunFacts", "card", "metric_lines", "page", "summary", "write_report"]
