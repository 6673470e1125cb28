"""Every error as `application/problem+json` (RFC 9457): from our code, msgspec or the framework."""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap
from psycopg.errors import UndefinedColumn, UndefinedTable
from sqlalchemy.exc import ProgrammingError

from app.core import limits
from app.core.choices import explained, field_names, suggestion
from app.core.errors import FieldError, InvalidInput, Problem, Unavailable, WaldError
from app.core.logs import brief
from app.core.outages import ENGINE_ERRORS

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
_LOG = structlog.get_logger(__name__)
_KINDS: Final = {
    404: ("not-found", "Not found"),
    405: ("method-not-allowed", "Method not allowed"),
    413: ("too-large", "Too large"),
    415: ("unsupported-media-type", "Unsupported media type"),
    500: ("internal", "Internal error"),
}
_NAMED_FIELD: Final = re.compile(
    r"Object (contains (?P<unknown>unknown)|missing required) field `(?P<name>.*)`", re.DOTALL
)
_encode: Final = msgspec.json.Encoder().encode


def problem_response(problem: Problem, headers: dict[str, str] | None = None) -> Response[bytes]:
    """Return the answer for a problem."""
    return Response(
        content=_encode(problem),
        status_code=problem.status,
        media_type=PROBLEM_MEDIA_TYPE,
        headers=headers or {},
    )


async def send_problem(send: Any, error: WaldError) -> None:
    """Answer an ASGI request with an error, without the framework."""
    body = _encode(error.problem())
    headers = [
        (b"content-type", PROBLEM_MEDIA_TYPE.encode()),
        (b"content-length", b"%d" % len(body)),
        *((name.lower().encode(), value.encode()) for name, value in error.headers.items()),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _wald_error(_: Request[Any, Any, Any], error: WaldError) -> Response[bytes]:
    return problem_response(error.problem(), error.headers)


def _validation(request: Request[Any, Any, Any], error: ValidationException) -> Response[bytes]:
    extra = error.extra if isinstance(error.extra, list) else []
    errors = tuple(_field_error(item, request) for item in extra if isinstance(item, dict))
    detail = "; ".join(f"{wrong.field}: {wrong.reason}" for wrong in errors) or error.detail
    return problem_response(InvalidInput(detail, errors=errors).problem())


def _field_error(item: Mapping[str, Any], request: Request[Any, Any, Any]) -> FieldError:
    """Translate what Litestar reports about one field into our words."""
    place, message = str(item.get("key", "data")), str(item.get("message", ""))
    if message == "'data'":
        return FieldError("body", "is required")
    if named := _NAMED_FIELD.fullmatch(message):
        name = named["name"] if place == "data" else f"{place}.{named['name']}"
        if not named["unknown"]:
            return FieldError(name, "is required")
        kind, path = _expected(request, "" if place == "data" else place)
        return FieldError(name, f"unknown field{suggestion(named['name'], field_names(kind, path))}")
    if repr(limits.KEY_PATTERN) in message:
        message = "must be 1 to 128 of A-Z a-z 0-9 . _ -"
    message = explained(message, *_expected(request, place))
    return FieldError("body" if place == "data" else place, message)


def _expected(request: Request[Any, Any, Any], place: str) -> tuple[Any, str]:
    """Return the type that contains a field, and the path there: of the body or a parameter."""
    parameters = request.route_handler.parsed_fn_signature.parameters
    for name, parameter in parameters.items():
        query = getattr(parameter.kwarg_definition, "query", None) or name
        if place in {name, query} and name != "data":
            return parameter.annotation, ""
    body = parameters.get("data")
    return (Any if body is None else body.annotation), place


def _framework_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    kind, title = _KINDS.get(error.status_code, ("invalid-input", "Invalid input"))
    problem = Problem(f"/problems/{kind}", title, error.status_code, error.detail or title)
    return problem_response(problem, dict(error.headers or {}))


def _undecodable(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    reason = "not valid UTF-8" if isinstance(error, UnicodeError) else "nested too deeply"
    return problem_response(InvalidInput(f"the request is {reason}", field="body").problem())


def _engine_away(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    _LOG.warning("engine_away", path=request.url.path, method=request.method, reason=brief(error))
    problem = Unavailable("an engine does not answer; try again later").problem()
    return problem_response(problem, Unavailable.headers)


def _statement_refused(request: Request[Any, Any, Any], error: ProgrammingError) -> Response[bytes]:
    """Answer 503 if a table or column is missing: the schema is older than this version."""
    if not isinstance(error.orig, UndefinedTable | UndefinedColumn):
        return _unexpected(request, error)
    _LOG.error("schema_missing", path=request.url.path, reason=str(error.orig).partition("\n")[0])
    problem = Unavailable("the database schema is older than this version: run `wald migrate`").problem()
    return problem_response(problem, Unavailable.headers)


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    _LOG.error("request_failed", path=request.url.path, method=request.method, exc_info=error)
    return problem_response(Problem("/problems/internal", "Internal error", 500, "unexpected; see the log"))


EXCEPTION_HANDLERS: Final[ExceptionHandlersMap] = {
    WaldError: _wald_error,
    ValidationException: _validation,
    HTTPException: _framework_error,
    UnicodeError: _undecodable,
    RecursionError: _undecodable,
    ProgrammingError: _statement_refused,
    **dict.fromkeys(ENGINE_ERRORS, _engine_away),
    Exception: _unexpected,
}


def require_json(request: Request[Any, Any, Any]) -> None:
    """Refuse a body that is not declared as JSON, with 415. A Litestar `before_request` hook."""
    declared = request.headers.get("content-type")
    if request.method in {"POST", "PUT", "PATCH"} and declared is not None:
        media_type = declared.partition(";")[0].strip().lower()
        if media_type != "application/json" and not media_type.endswith("+json"):
            detail = f"content-type must be application/json, got {media_type}"
            raise HTTPException(status_code=415, detail=detail)
