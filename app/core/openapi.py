"""The OpenAPI document, completed with refusals, ways to send a key, and hidden parameters."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Request
from litestar.openapi.plugins import JsonRenderPlugin

from app.core.errors import Problem

Document = dict[str, Any]

SECURITY_SCHEMES: Final[Document] = {
    "key": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "header": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "`X-API-Key: KEY`; wins over `Authorization`, which a proxy may have set",
    },
}
"""Two ways to send one API key."""

_KEYED: Final[list[Document]] = [{name: []} for name in SECURITY_SCHEMES]
_PROBLEM: Final = "application/problem+json"
_DESCRIPTIONS: Final = {
    400: "The request cannot be read, or a field is out of its bounds",
    401: "No API key, or one that is unknown, revoked or expired",
    403: "The API key lacks the scope",
    404: "Not found",
    409: "The present state does not allow this",
    410: "No longer accepted: its time has passed",
    413: "The body or batch is over its limit",
    414: "The URL is too long",
    415: "The media type of the body is not accepted",
    422: "The request is well-formed but contradicts stored data",
    429: "Too many wrong API keys from this address",
    431: "The headers are too long or too many",
    503: "An engine is away or another computation is running: try again after `Retry-After`",
}
_RETRY_AFTER: Final = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "string"}}}
_HEADERS: Final[dict[int, Document]] = {
    401: {"WWW-Authenticate": {"description": "`Bearer`", "schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}
_CHANGES_STATE: Final = ("/experiments", "/rollouts", "/webhooks", "/deliveries", "/keys")
_READS_TOTALS: Final = ("/status", "/series", "/assignments", "/aa", "/evaluate")
_NAMES_EXPERIMENTS: Final = frozenset({"/assign", "/feedback", "/responses", "/rollouts"})
"""Operations without a path parameter that can answer 404."""

_TAKES_BATCHES: Final = ("/feedback", "/responses")
"""Operations whose answer to several items reports each of them."""

_CONTEXT: Final[Document] = {
    "name": "context.*",
    "in": "query",
    "required": False,
    "description": "Context for targeting and contextual policies: any number of `context.NAME=VALUE`.",
    "style": "form",
    "explode": True,
    "schema": {
        "type": "object",
        "patternProperties": {"^context\\.[^=&]+$": {"type": "string"}},
        "additionalProperties": False,
    },
}
_MEDIA_TYPES: Final = {
    "/changes": ("text/event-stream",),
    "/experiments/{key}/assignments": ("text/csv", "application/vnd.apache.parquet"),
}
"""Media types of answers that are not JSON, by path."""


class CompletePlugin(JsonRenderPlugin):
    """Plugin that serves the completed document."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: Document) -> bytes:
        """Render the completed document."""
        return super().render(request, completed(openapi_schema))


def completed(document: Document) -> Document:
    """Return Litestar's document with every status, both ways to send a key, and all parameters."""
    done = deepcopy(msgspec.to_builtins(document, str_keys=True))
    components = done.setdefault("components", {})
    components["securitySchemes"] = SECURITY_SCHEMES
    (reference,), problem_schemas = msgspec.json.schema_components(
        [Problem], ref_template="#/components/schemas/{name}"
    )
    schemas = components.setdefault("schemas", {})
    schemas.update(problem_schemas)
    done["security"] = _KEYED
    for path, operations in done["paths"].items():
        for method, operation in operations.items():
            _complete(path, method, operation, reference)
    _add_parameters(done["paths"], schemas)
    repaired: Document = _repaired(done)
    return repaired


def _repaired(part: Any) -> Any:
    """Return a part of a document with its unions corrected.

    The framework reads the dots of `tuple[X, ...]` as a second type, and writes `oneOf` where
    several members may match (1 is an integer and a number).
    """
    if isinstance(part, list):
        return [_repaired(item) for item in part]
    if not isinstance(part, dict):
        return part
    whole = {name: _repaired(value) for name, value in part.items()}
    choices = whole.pop("oneOf", None)
    if choices is None:
        return whole
    if all(choices):
        return whole | {"anyOf": choices}
    is_tuple = len(choices) == 2 and choices[0] not in ({}, {"type": "null"})
    return choices[0] if is_tuple and not whole else whole


def _complete(path: str, method: str, operation: Document, problem: Document) -> None:
    responses = operation["responses"]
    open_to_all = operation.get("security") == [{}]
    if open_to_all:
        operation["security"] = [{}, *_KEYED]
    for status in _refusals(path, method, open_to_all=open_to_all):
        response = responses.setdefault(str(status), {"description": _DESCRIPTIONS[status]})
        if status == 400:
            response.update(description=_DESCRIPTIONS[400], content={})
        response.setdefault("content", {})[_PROBLEM] = {"schema": problem}
        if status in _HEADERS:
            response["headers"] = _HEADERS[status]
    if path in _TAKES_BATCHES and method == "post":
        responses["422"]["content"] |= responses["202"]["content"]
    if path == "/ready":
        responses["503"] = {"description": "Unready: send no traffic", "content": responses["200"]["content"]}
    if path in _MEDIA_TYPES:
        text = {"schema": {"type": "string"}}
        responses["200"]["content"] = dict.fromkeys(_MEDIA_TYPES[path], text)
    _require_body_where_needed(operation)
    for status, response in responses.items():
        if response.get("description") == "Request fulfilled, document follows":
            response["description"] = HTTPStatus(int(status)).phrase


def _refusals(path: str, method: str, *, open_to_all: bool) -> Iterable[int]:
    """Yield the error statuses of an operation."""
    yield from (414, 431)
    if open_to_all:
        return
    yield from (400, 401, 403, 429, 503)
    if "{" in path or path in _NAMES_EXPERIMENTS:
        yield 404
    if method in {"post", "put", "patch"}:
        yield from (413, 415)
    if path in _TAKES_BATCHES and method == "post":
        yield from (410, 422)
    elif path == "/responses/{response_id}":
        yield from (409, 410)
    elif (method != "get" and path.startswith(_CHANGES_STATE)) or path.endswith(_READS_TOTALS):
        yield from (409, 422)


def _require_body_where_needed(operation: Document) -> None:
    """Mark a body that may be null as optional."""
    body = operation.get("requestBody")
    if body is None:
        return
    for content in body["content"].values():
        choices = content["schema"].get("oneOf", [])
        if {"type": "null"} in choices:
            body["required"] = False


def _add_parameters(paths: Mapping[str, Document], schemas: Mapping[str, Document]) -> None:
    """Add the parameters that handlers read from the query themselves."""
    if "/assign" in paths:
        paths["/assign"]["get"].setdefault("parameters", []).append(_CONTEXT)
    if "/power" in paths:
        body = paths["/power"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        question = schemas[body["$ref"].rpartition("/")[2]]
        paths["/power"]["get"]["parameters"] = [
            {
                "name": name,
                "in": "query",
                "required": name in question.get("required", ()),
                "schema": _scalar(schema),
            }
            for name, schema in question["properties"].items()
        ]


def _scalar(schema: Document) -> Document:
    """Return the schema of a field as a query parameter, where lists are comma-separated."""
    kinds = schema.get("type")
    if kinds == "array" or (isinstance(kinds, list) and "array" in kinds):
        return {"type": "string", "description": "numbers, separated by commas"}
    return schema
