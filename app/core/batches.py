"""Requests with one item or many, in any of the encodings: their bodies and schemas."""

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException
from litestar.openapi.spec import OpenAPIMediaType, RequestBody, Schema

from app.core.bodies import MediaType
from app.core.errors import TooLarge

_MEDIA_TYPES: Final = {
    "": MediaType.JSON,
    "application/json": MediaType.JSON,
    "text/plain": MediaType.JSON,  # what a browser's sendBeacon sends
    "application/x-ndjson": MediaType.NDJSON,
    "application/ndjson": MediaType.NDJSON,
    "application/jsonl": MediaType.NDJSON,
    "application/msgpack": MediaType.MSGPACK,
    "application/x-msgpack": MediaType.MSGPACK,
    "application/vnd.msgpack": MediaType.MSGPACK,
}


@dataclass
class _Written(Schema):
    """A JSON Schema that msgspec wrote, for a body that the framework does not decode."""

    written: dict[str, Any] = field(default_factory=dict)

    def to_schema(self) -> dict[str, Any]:
        """Return the schema for litestar's document."""
        return self.written


def request_body(kind: type, *, items_max: int) -> RequestBody:
    """Return the description of a body that is one item of this type or a list of them."""
    (reference,), components = msgspec.json.schema_components([kind])
    item = components[reference["$ref"].rpartition("/")[2]]
    items = {"type": "array", "items": item, "minItems": 1, "maxItems": items_max}
    schema = _Written(written={"oneOf": [item, items]})
    content = {media_type.value: OpenAPIMediaType(schema=schema) for media_type in MediaType}
    return RequestBody(content=content, required=True)


async def any_media_type(_: Request[Any, Any, Any]) -> None:
    """Replace the application's hook, which accepts only JSON."""


def media_type_of(request: Request[Any, Any, Any]) -> MediaType:
    """Return the encoding of the body. Raises HTTPException (415) for any other."""
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared not in _MEDIA_TYPES:
        raise HTTPException(
            status_code=415, detail=f"content-type must be one of {', '.join(MediaType)}, got {declared}"
        )
    return _MEDIA_TYPES[declared]


async def read_body(request: Request[Any, Any, Any], bytes_max: int) -> bytes:
    """Read the whole body. Raises TooLarge above `bytes_max`."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > bytes_max:
            raise TooLarge(f"at most {bytes_max} bytes", field="body")
        parts.append(part)
    return b"".join(parts)
