"""The guard of Litestar routes: who calls, and whether they may."""

from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from app.access.model import Scope, credential
from app.access.refusals import Access, identified
from app.core.clock import Clock, SystemClock
from app.core.errors import Unavailable


def requires(scope: Scope, clock: Clock = SystemClock()) -> Guard:  # noqa: B008 - it holds no state
    """A guard that lets keys with `scope` pass and leaves the `ApiKey` in `request.state.api_key`.

    Its refusals are those of `KeyRing.authenticate`; TooManyRequests after too many wrong keys from one
    address; Unavailable before the first key ring is loaded.
    """

    # Asynchronous, or Litestar would run it in a thread.
    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        access: Access = connection.app.state.access
        if access.keyring is None:
            raise Unavailable("API keys are not loaded yet")
        header = credential(connection.scope["headers"])
        connection.state.api_key = identified(connection, access.keyring, header, scope, clock.now_ms())

    return guard
