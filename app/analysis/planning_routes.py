"""The power calculator over HTTP: the same question as a query or as a body."""

import asyncio
from typing import Any, Final

import msgspec
from litestar import Request, get, post

from app.access.guards import requires
from app.access.model import Scope
from app.analysis.planning import PowerAnswer, PowerQuestion, answer
from app.core.errors import FieldError, InvalidInput


@get("/power", guards=[requires(Scope.READ)])
async def power_by_query(request: Request[Any, Any, Any]) -> PowerAnswer:
    """How many units and weeks an experiment needs; every field of the question is a query parameter.

    Shares of an allocation are separated by commas.
    """
    given: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise InvalidInput(f"{name} is given twice", field=name)
        given[name] = value.split(",") if name == "allocation" else value
    return await asyncio.to_thread(answer, _question(given))


@post("/power", guards=[requires(Scope.READ)], status_code=200)
async def power_by_body(data: PowerQuestion) -> PowerAnswer:
    """How many units and weeks an experiment needs."""
    return await asyncio.to_thread(answer, data)


def _question(given: dict[str, Any]) -> PowerQuestion:
    """Texts as numbers. Raises InvalidInput naming the field."""
    for name in given:
        if name not in PowerQuestion.__struct_fields__:
            raise InvalidInput(f"{name}: unknown field", errors=(FieldError(name, "unknown field"),))
    try:
        return msgspec.convert(given, PowerQuestion, strict=False)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        raise InvalidInput(reason, field=path.rstrip("`").partition("[")[0] or "query") from error


ROUTES: Final = [power_by_query, power_by_body]
