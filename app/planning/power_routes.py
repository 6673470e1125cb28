"""The power calculator over HTTP: the same question as a query or as a body."""

import asyncio
from typing import Any, Final

from litestar import Request, get, post

from app.access.guards import requires
from app.access.model import Scope
from app.core.errors import InvalidInput
from app.planning.power import PowerAnswer, PowerQuestion, answer, question_of


@get("/power", guards=[requires(Scope.READ)])
async def power_by_query(request: Request[Any, Any, Any]) -> PowerAnswer:
    """Calculate how many units and weeks an experiment needs, from query parameters.

    Shares of an allocation are separated by commas.
    """
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise InvalidInput(f"{name} is given twice", field=name)
        given[name] = value
    return await asyncio.to_thread(answer, question_of(given))


@post("/power", guards=[requires(Scope.READ)], status_code=200)
async def power_by_body(data: PowerQuestion) -> PowerAnswer:
    """Calculate how many units and weeks an experiment needs."""
    return await asyncio.to_thread(answer, data)


ROUTES: Final = [power_by_query, power_by_body]
