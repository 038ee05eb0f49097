"""Logs for people or for programs. Every line about a run says which, and in which round.

A line holds what happened, never a key, a bearer, a secret or anything of a node's data. A traceback is its frames
alone: values of variables, which some printers add, may be any of these.
"""

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import Processor

Format = Literal["json", "text"]


class _ToStandardError(logging.Handler):
    """Writes to what is standard error now, which may be another file than at first."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{self.format(record)}\n")


def format_for(asked: str | None) -> Format:
    """The format that was asked for; where none was, text on a terminal and JSON elsewhere."""
    return "text" if asked == "text" or (asked is None and sys.stderr.isatty()) else "json"


def write_logs(how: Format) -> None:
    """Write all logs of this process to standard error, those of the libraries that it uses among them."""
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if how == "text"
        else structlog.processors.JSONRenderer()
    )
    told: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([structlog.processors.format_exc_info] if how == "json" else []),
    ]
    structlog.configure(processors=[*told, renderer], logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    handler = _ToStandardError()
    last: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=last, foreign_pre_chain=told))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
