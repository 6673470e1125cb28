"""Responses on a terminal."""

from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from app.cli.client import read
from app.cli.display.amounts import minute
from app.cli.display.tables import Column, Table, visible
from app.responses.reading_service import Erased, ResponsePage, ResponseView, WaitingFeedback

_EXCERPT: Final = 60


def page(answer: bytes) -> RenderableType:
    """Return a table of responses with the beginning of each text."""
    responses = read(answer, ResponsePage)
    if not responses.responses:
        return Text("There are no such responses.")
    table = Table(
        Column("arrived (UTC)"),
        Column("variant", "name"),
        Column("model", "name"),
        Column("ms"),
        Column("finish", "name"),
        Column("response", "text"),
    )
    for response in responses.responses:
        table.add(
            minute(response.received_at),
            response.variant or "",
            response.model or "",
            "" if response.latency_ms is None else f"{response.latency_ms:,.0f}",
            "error" if response.error is not None else response.finish_reason or "",
            _excerpt(response),
        )
    following = [] if responses.next is None else [Text(f"more: --after {responses.next}", style="dim")]
    return Group(table, *following)


def one(answer: bytes) -> RenderableType:
    """Return one response with its whole texts."""
    response = read(answer, ResponseView)
    head = Text(visible(f"{response.experiment} / {response.variant or 'no assignment yet'}"), style="bold")
    facts = {
        "response_id": response.response_id,
        "arrived (UTC)": minute(response.received_at),
        "unit": response.unit,
        "session": response.session_id,
        "model": response.model,
        "latency_ms": response.latency_ms,
        "tokens": f"{response.tokens_in} in, {response.tokens_out} out",
        "cost_usd": response.cost_usd,
        "finish_reason": response.finish_reason,
        "error": response.error,
        "redacted": ", ".join(response.redacted) or None,
    }
    lines = [Text(visible(f"{name}: {value}")) for name, value in facts.items() if value is not None]
    texts = [("prompt", response.prompt), ("response", response.response)]
    shown = [
        Text(f"\n{name}:\n", style="bold").append(_lines(text), style="not bold")
        for name, text in texts
        if text is not None
    ]
    erased = [Text("\nIts texts were erased on request.")] if response.erased else []
    return Group(head, *lines, *shown, *erased)


def waiting(answer: bytes) -> RenderableType:
    """Return the numbers and a table of feedback that does not count."""
    feedback = read(answer, WaitingFeedback)
    head = Text(
        f"{feedback.waiting:,} waiting, {feedback.ambiguous:,} ambiguous, {feedback.refused:,} refused"
    )
    if not feedback.signals:
        return head
    table = Table(
        Column("arrived (UTC)"),
        Column("response_id", "name"),
        Column("experiment", "name"),
        Column("signal", "name"),
        Column("state", "name"),
        Column("reason", "text"),
    )
    for signal in feedback.signals:
        table.add(
            minute(signal.received_at),
            signal.response_id,
            signal.experiment or "",
            signal.signal,
            signal.state,
            signal.reason or "",
        )
    return Group(head, "", table)


def erased(answer: bytes) -> RenderableType:
    """Return how many texts were deleted."""
    return Text(f"Deleted the texts of {read(answer, Erased).erased:,} responses.")


def _lines(text: str) -> str:
    """Return a text of several lines as a terminal may show it."""
    return "\n".join(visible(line) for line in text.splitlines())


def _excerpt(response: ResponseView) -> str:
    if response.erased:
        return "(erased)"
    text = " ".join((response.error or response.response or "").split())
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…"
