"""Structured logs to standard error: JSON lines, or coloured text when a person is looking.

Never logged: API keys, payloads, contexts, values of signals.
"""

import logging
import sys
from typing import Any, Final

import structlog

_WITHOUT_LOCALS: Final = structlog.dev.RichTracebackFormatter(show_locals=False)
"""Local variables hold secrets."""


def configure(level: str, **bound: Any) -> None:
    """Set up structlog and the standard library's logging once per process; `bound` goes on every line."""
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    for_people = sys.stderr.isatty()
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not for_people:
        processors.append(structlog.processors.format_exc_info)
    processors.append(
        structlog.dev.ConsoleRenderer(exception_formatter=_WITHOUT_LOCALS)
        if for_people
        else structlog.processors.JSONRenderer(default=str)
    )
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**bound)
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr, format="%(name)s: %(message)s")
