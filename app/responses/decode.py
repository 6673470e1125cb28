"""Decoder of the bodies of `/responses`. Pure."""

from typing import Final, TypeAlias

from app.core import bodies
from app.core.bodies import BodyDecoder
from app.responses import limits
from app.responses.aliases import correct
from app.responses.model import Response

Decoded: TypeAlias = bodies.Decoded[Response]

decode: Final = BodyDecoder(
    Response, noun="responses", items_max=limits.RESPONSES_BATCH_MAX, correct=correct
).decode
