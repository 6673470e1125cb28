"""The OpenAPI document, completed by what the framework cannot know: refusals, keys, hidden parameters."""

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
        "description": "`X-API-Key: KEY`; wins over `Authorization`, which a proxy may have filled",
    },
}
"""Two ways to send one API key."""

_KEYED: Final[list[Document]] = [{name: []} for name in SECURITY_SCHEMES]
_PROBLEM: Final = "application/problem+json"
_DESCRIPTIONS: Final = {
    400: "Cannot be read, or a field is out of its bounds",
    401: "No API key, or one that is unknown, revoked or expired",
    403: "The API key lacks the scope",
    404: "Nothing has this name",
    409: "The state does not allow it",
    410: "Its time has passed",
    413: "A body or batch over its limit",
    414: "The URL is too long",
    415: "The body has a media type that is not accepted",
    422: "Well-formed, but it contradicts what is stored",
    429: "Too many wrong API keys from this address",
    431: "The headers are too long or too many",
    503: "An engine is away, or another computation is running: repeat after `Retry-After`",
}
_RETRY_AFTER: Final = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "string"}}}
_HEADERS: Final[dict[int, Document]] = {
    401: {"WWW-Authenticate": {"description": "`Bearer`", "schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}
_CHANGES_STATE: Final = ("/experiments", "/rollouts", "/webhooks", "/deliveries", "/keys")
_READS_TOTALS: Final = ("/status", "/series", "/assignments", "/aa", "/evaluate")
_NAMES_EXPERIMENTS: Final = frozenset({"/assign", "/feedback", "/rollouts"})
"""Operations that answer 404 although their path has no parameter."""

_CONTEXT: Final[Document] = {
    "name": "context.*",
    "in": "query",
    "required": False,
    "description": "What targeting and contextual policies look at: any number of `context.NAME=VALUE`.",
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
"""Answers that are not JSON, by path."""


class CompletePlugin(JsonRenderPlugin):
    """Serves the completed document."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: Document) -> bytes:
        """Of Litestar."""
        return super().render(request, completed(openapi_schema))


def completed(document: Document) -> Document:
    """A copy of Litestar's document with every status, both ways to send a key, and all parameters."""
    done = deepcopy(msgspec.to_builtins(document, str_keys=True))
    components = done.setdefault("components", {})
    components["securitySchemes"] = SECURITY_SCHEMES
    (reference,), found = msgspec.json.schema_components(
        [Problem], ref_template="#/components/schemas/{name}"
    )
    schemas = components.setdefault("schemas", {})
    schemas.update(found)
    done["security"] = _KEYED
    for path, operations in done["paths"].items():
        for method, operation in operations.items():
            _complete(path, method, operation, reference)
    _add_parameters(done["paths"], schemas)
    repaired: Document = _repaired(done)
    return repaired


def _repaired(part: Any) -> Any:
    """Return the same part of a document without what the framework gets wrong about unions.

    It takes the dots of `tuple[X, ...]` for a second type without bounds, and says `oneOf` where
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
    if path == "/feedback":
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
    """Yield the statuses with which an operation may refuse, or fail."""
    yield from (414, 431)
    if open_to_all:
        return
    yield from (400, 401, 403, 429, 503)
    if "{" in path or path in _NAMES_EXPERIMENTS:
        yield 404
    if method in {"post", "put", "patch"}:
        yield from (413, 415)
    if path == "/feedback":
        yield from (410, 422)
    elif (method != "get" and path.startswith(_CHANGES_STATE)) or path.endswith(_READS_TOTALS):
        yield from (409, 422)


def _require_body_where_needed(operation: Document) -> None:
    """A body that may be null may be left out."""
    body = operation.get("requestBody")
    if body is None:
        return
    for content in body["content"].values():
        choices = content["schema"].get("oneOf", [])
        if {"type": "null"} in choices:
            body["required"] = False


def _add_parameters(paths: Mapping[str, Document], schemas: Mapping[str, Document]) -> None:
    """Parameters that handlers read from the query by themselves."""
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
    """Return the schema of a field as a query parameter: lists are written with commas."""
    kinds = schema.get("type")
    if kinds == "array" or (isinstance(kinds, list) and "array" in kinds):
        return {"type": "string", "description": "numbers, separated by commas"}
    return schema
