"""Guard of Litestar routes: it checks the API key and its scope."""

from collections.abc import Callable
from typing import Any, Protocol

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from app.access.model import ApiKey, KeyRing, Scope, UnknownKey, credential
from app.access.refusals import charged
from app.core.clock import Clock, SystemClock
from app.core.errors import Unauthorized, Unavailable


class Access(Protocol):
    """Interface of `app.state.access`. A refresh loop replaces its key ring."""

    @property
    def keyring(self) -> KeyRing | None:
        """Keys in force; None before the first load."""
        ...

    async def load_access(self) -> bool:
        """Load the keys that are published now, and return whether that succeeded."""
        ...


def requires(scope: Scope, clock: Clock = SystemClock()) -> Guard:  # noqa: B008 - it holds no state
    """Return a guard that admits keys with `scope` and sets `request.state.api_key`.

    It raises like `authenticated`.
    """

    # Async, because Litestar would run a synchronous guard in a thread.
    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        header = credential(connection.scope["headers"])
        connection.state.api_key = await authenticated(connection, header, scope, clock)

    return guard


async def authenticated(
    connection: ASGIConnection[Any, Any, Any, Any], header: bytes | None, scope: Scope, clock: Clock
) -> ApiKey:
    """Return the key in a header, if it has the scope.

    Raises like `KeyRing.authenticate` and `looked_up`; TooManyRequests after too many wrong keys.
    """
    access: Access = connection.app.state.access
    try:
        return await looked_up(access, lambda keyring: keyring.authenticate(header, scope, clock.now_ms()))
    except Unauthorized as error:
        raise charged(connection, header, error) from None


async def looked_up(access: Access, find: Callable[[KeyRing], ApiKey]) -> ApiKey:
    """Return the key that `find` returns, even if another server created it a moment ago.

    An unknown key waits for one load of the published keys, which all callers share. Raises what
    `find` raises. Raises Unavailable before the first load, and for an unknown key while newer keys
    cannot be loaded.
    """
    if access.keyring is None:
        raise Unavailable("API keys are not loaded yet")
    try:
        return find(access.keyring)
    except UnknownKey:
        if not await access.load_access():
            raise Unavailable(
                "this server does not know this API key and cannot load newer keys now: try again"
            ) from None
    return find(access.keyring)
