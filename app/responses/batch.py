"""Staging of stream entries: responses, and signals by `response_id`. Pure."""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from app.feedback import addressed
from app.feedback.addressed import AddressedSignal
from app.feedback.model import Event, Source
from app.ledger.log.batch import StreamEntry, UndecodableEntry
from app.responses import entry
from app.responses.entry import AcceptedResponse

_SOURCES: Final = {source.value: source.name.lower() for source in Source}
_KEY_BYTES: Final = 16
_BODY_BYTES: Final = frozenset({0, 48})
_UNREADABLE: Final = (msgspec.MsgspecError, ValueError, UnicodeError, RecursionError)


class Batch(msgspec.Struct, frozen=True):
    """Events of one transaction, in the order of the stream."""

    responses: Sequence[AcceptedResponse]
    signals: Sequence[AddressedSignal]


def stage(entries: Iterable[StreamEntry]) -> Batch:
    """Decode the events of all entries. Raises UndecodableEntry if one cannot be read."""
    responses: list[AcceptedResponse] = []
    signals: list[AddressedSignal] = []
    for item in entries:
        if item.fault:
            raise UndecodableEntry(item.fault)
        try:
            match item.kind:
                case entry.KIND:
                    responses += entry.decode(item.body)
                case addressed.KIND:
                    signals += addressed.decode(item.body)
                case _:
                    raise UndecodableEntry(f"unknown kind {item.kind!r}")
        except _UNREADABLE as error:
            raise UndecodableEntry(str(error)) from error
    for response in responses:
        if len(response.key) != _KEY_BYTES or len(response.assignment) not in _BODY_BYTES:
            raise UndecodableEntry("the key of a response must have 16 bytes, its assignment 48 or none")
    for signal in signals:
        if signal.source not in _SOURCES:
            raise UndecodableEntry(f"unknown source {signal.source}")
    return Batch(responses, signals)


def apart(item: StreamEntry) -> tuple[list[tuple[int, StreamEntry]], dict[int, str]]:
    """Split an entry into entries of one event, by number, and the errors of unreadable events."""
    if item.fault:
        return [], {0: item.fault}
    try:
        match item.kind:
            case entry.KIND:
                good, errors = entry.apart(item.body)
            case addressed.KIND:
                good, errors = addressed.apart(item.body)
            case _:
                return [], {0: f"unknown kind {item.kind!r}"}
    except _UNREADABLE as error:
        return [], {0: str(error)}
    return [(number, item._replace(n=1, body=body)) for number, body in good.items()], errors


def event_of(signal: AddressedSignal) -> Event:
    """Return the event that a client would have sent about the assignment."""
    return Event(
        signal=signal.signal,
        value=signal.value,
        source=_SOURCES[signal.source],  # type: ignore[arg-type]
        id=signal.id,
        at=signal.at_us / 1e6,
    )


def event_key(signal: AddressedSignal) -> str:
    """Return which signals about one response replace each other while they wait."""
    return f"#{signal.signal}/{signal.source}" if signal.id is None else f"={signal.id}"
