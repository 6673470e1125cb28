"""Structured logs to standard error: JSON lines, or coloured text on a terminal.

Lines of libraries that log with the standard library have the same form. Never logged: API keys,
payloads, contexts, values of signals, queries of URLs. The fields are in docs/reference/logs.md.
"""

import logging
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REPEATS_S: Final = 60.0
"""Time for which equal lines are only counted."""
STORM_S: Final = 10.0
STORM_LINES: Final = 20
"""Number of lines of one event that pass in `STORM_S`, whatever their other fields."""
REMEMBERED_LINES: Final = 2_000
TEXT_LENGTH_MAX: Final = 1_000
UNLIMITED_EVENTS: Final = frozenset({"request"})
"""Events that are never dropped: those of the access log."""

_WITHOUT_LOCALS: Final = structlog.dev.RichTracebackFormatter(show_locals=False)
"""Local variables hold secrets."""
_IDENTITY: Final = (
    "loop",
    "item",
    "service",
    "component",
    "engine",
    "experiment",
    "experiment_id",
    "rollout_id",
    "delivery",
)
_DIGITS: Final = re.compile(r"\d+")
_IDENTITY_LENGTH: Final = 80


def configure(level: str, **bound: Any) -> None:
    """Set up structlog and standard logging. Every line has the fields `bound`."""
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    for_people = sys.stderr.isatty()
    repeats = Repeats(monotonic)
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    after: list[Processor] = [_shortened]
    if not for_people:
        after.append(structlog.processors.format_exc_info)
    after.append(
        structlog.dev.ConsoleRenderer(exception_formatter=_WITHOUT_LOCALS)
        if for_people
        else structlog.processors.JSONRenderer(default=str)
    )
    structlog.configure(
        processors=[*before, repeats, *after],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**bound)
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(repeats.lets_pass)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*before, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *after],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)


class Repeats:
    """A processor that drops repeated lines and counts them.

    It drops a line if an equal line was written less than `REPEATS_S` ago. The next line that
    passes has their number in `repeated`. Lines are equal if their event, level and subject (loop,
    experiment, …) are equal and their errors begin alike. At most `STORM_LINES` lines of one event
    pass in `STORM_S`.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._lines: OrderedDict[tuple[str, ...], tuple[float, int]] = (
            OrderedDict()
        )  # written at, dropped since
        self._storms: OrderedDict[str, tuple[float, int]] = OrderedDict()  # since, lines that passed

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        """Return the line, or raise DropEvent."""
        name = str(event.get("event", ""))
        if name in UNLIMITED_EVENTS:
            return event
        cause = _DIGITS.sub("#", str(event.get("error") or event.get("reason") or ""))[:_IDENTITY_LENGTH]
        subject = tuple(str(event[field]) for field in _IDENTITY if field in event)
        dropped = self._passes(name, (name, str(event.get("level", "")), cause, *subject))
        if dropped is None:
            raise structlog.DropEvent
        if dropped:
            event["repeated"] = dropped
        return event

    def lets_pass(self, record: logging.LogRecord) -> bool:
        """Return whether to write a line of the standard library. A filter of its handler."""
        return (
            self._passes(record.name, (record.name, record.levelname, str(record.msg)[:_IDENTITY_LENGTH]))
            is not None
        )

    def _passes(self, event: str, identity: tuple[str, ...]) -> int | None:
        """Return the number of equal lines dropped before this line; None to drop this line too."""
        now_s = self._now_s()
        written_at, dropped = self._lines.get(identity, (-REPEATS_S, 0))
        since, passed = self._storms.get(event, (now_s, 0))
        if now_s - since >= STORM_S:
            since, passed = now_s, 0
        if now_s - written_at < REPEATS_S or passed >= STORM_LINES:
            self._keep(self._lines, identity, (written_at, dropped + 1))
            return None
        self._keep(self._lines, identity, (now_s, 0))
        self._keep(self._storms, event, (since, passed + 1))
        return dropped

    @staticmethod
    def _keep(kept: "OrderedDict[Any, tuple[float, int]]", key: Any, value: tuple[float, int]) -> None:
        kept[key] = value
        kept.move_to_end(key)
        if len(kept) > REMEMBERED_LINES:
            kept.popitem(last=False)


def brief(error: BaseException) -> str:
    """Return the type and first line of an error; for SQLAlchemy, those of the driver's error."""
    cause = getattr(error, "orig", None) or error
    text = str(cause).strip().partition("\n")[0][:TEXT_LENGTH_MAX]
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


def peer(url: str) -> str:
    """Return the address in an engine's URL, without account, password and options."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _shortened(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Cut the texts of a line to `TEXT_LENGTH_MAX`. Tracebacks are added later and stay whole."""
    for name, value in event.items():
        if isinstance(value, str) and len(value) > TEXT_LENGTH_MAX:
            event[name] = f"{value[:TEXT_LENGTH_MAX]}…"
    return event
