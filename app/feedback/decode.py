"""Decoder of the bodies of `/feedback`. Pure."""

from typing import Final, TypeAlias

from app.core import bodies
from app.core.bodies import BodyDecoder, MediaType
from app.feedback import limits
from app.feedback.model import Event

Decoded: TypeAlias = bodies.Decoded[Event]

decode: Final = BodyDecoder(Event, noun="events", items_max=limits.FEEDBACK_BATCH_MAX).decode

__all__ = ["Decoded", "MediaType", "decode"]
