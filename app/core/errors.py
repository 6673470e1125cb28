"""Error tree of the product. Each exception carries its own answer (RFC 9457).

WaldError
├── InvalidInput        400  the request cannot be read, or a field is out of its bounds
├── Unauthorized        401  no API key, or an unknown, revoked or expired one
├── Forbidden           403  the API key lacks the scope
├── NotFound            404
├── Conflict            409  the present state does not allow it
├── Gone                410  no longer accepted
├── TooLarge            413
├── UnprocessableInput  422  well-formed, but contradicts stored data
├── TooManyRequests     429  too many requests of one caller; carries Retry-After
└── Unavailable         503  an engine is away; carries Retry-After
"""

import math
from typing import ClassVar

import msgspec


class FieldError(msgspec.Struct, frozen=True):
    """A field and its problem."""

    field: str
    reason: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of every error answer: `application/problem+json`, RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[FieldError, ...] = ()


class WaldError(Exception):
    """The root of the tree. `kind` is the stable last part of the problem's type."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    headers: ClassVar[dict[str, str]] = {}

    def __init__(self, detail: str, *, field: str | None = None, errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or ((FieldError(field, detail),) if field is not None else ())

    def problem(self) -> Problem:
        """Return the RFC 9457 body."""
        return Problem(
            type=f"/problems/{self.kind}",
            title=self.title,
            status=self.status,
            detail=self.detail,
            errors=self.errors,
        )


class InvalidInput(WaldError):
    """The request cannot be read, or a field is out of its bounds."""

    status = 400
    kind = "invalid-input"
    title = "Invalid input"


class Unauthorized(WaldError):
    """No API key, or an unknown, revoked or expired one."""

    status = 401
    kind = "unauthorized"
    title = "Unauthorized"
    headers: ClassVar[dict[str, str]] = {"WWW-Authenticate": "Bearer"}


class Forbidden(WaldError):
    """An API key that lacks the scope."""

    status = 403
    kind = "forbidden"
    title = "Forbidden"


class NotFound(WaldError):
    """An object that does not exist."""

    status = 404
    kind = "not-found"
    title = "Not found"


class Conflict(WaldError):
    """An operation that the present state does not allow."""

    status = 409
    kind = "conflict"
    title = "Conflict"


class Gone(WaldError):
    """Data that came too late and are no longer accepted."""

    status = 410
    kind = "gone"
    title = "Gone"


class TooLarge(WaldError):
    """A body, batch or field over its limit."""

    status = 413
    kind = "too-large"
    title = "Too large"


class UnprocessableInput(WaldError):
    """Well-formed input that contradicts stored data."""

    status = 422
    kind = "unprocessable"
    title = "Unprocessable"


class TooManyRequests(WaldError):
    """Too many requests of one caller. Retry after `retry_after_s` seconds, rounded up."""

    status = 429
    kind = "too-many-requests"
    title = "Too many requests"

    def __init__(self, detail: str, *, retry_after_s: float) -> None:
        super().__init__(detail)
        self.headers = {"Retry-After": str(max(1, math.ceil(retry_after_s)))}  # type: ignore[misc]


class Unavailable(WaldError):
    """An engine is away. The same request will work later."""

    status = 503
    kind = "unavailable"
    title = "Unavailable"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}
