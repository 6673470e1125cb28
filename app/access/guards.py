"""The guard of Litestar routes: who calls, and whether they may."""

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
    """What `app.state.access` has to be: a refresh loop swaps its key ring whole."""

    @property
    def keyring(self) -> KeyRing | None:
        """Who holds which key; None before the first was loaded."""
        ...

    async def load_access(self) -> bool:
        """Load the keys that are published now; whether that could be done."""
        ...


def requires(scope: Scope, clock: Clock = SystemClock()) -> Guard:  # noqa: B008 - it holds no state
    """A guard that lets keys with `scope` pass and leaves the `ApiKey` in `request.state.api_key`.

    Its refusals are those of `authenticated`.
    """

    # Asynchronous, or Litestar would run it in a thread.
    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        header = credential(connection.scope["headers"])
        connection.state.api_key = await authenticated(connection, header, scope, clock)

    return guard


async def authenticated(
    connection: ASGIConnection[Any, Any, Any, Any], header: bytes | None, scope: Scope, clock: Clock
) -> ApiKey:
    """Return the key in a header, if it has the scope.

    Raises as `KeyRing.authenticate` and `looked_up` do; TooManyRequests after too many wrong keys.
    """
    access: Access = connection.app.state.access
    try:
        return await looked_up(access, lambda keyring: keyring.authenticate(header, scope, clock.now_ms()))
    except Unauthorized as error:
        raise charged(connection, header, error) from None


async def looked_up(access: Access, find: Callable[[KeyRing], ApiKey]) -> ApiKey:
    """Return the key that `find` finds; one that another server made a moment ago included.

    An unknown key waits for one load of the published keys, which all who wait share. Raises what
    `find` raises; Unavailable before the first key ring is loaded, and for an unknown key while it
    cannot be seen whether it is new.
    """
    if access.keyring is None:
        raise Unavailable("API keys are not loaded yet")
    try:
        return find(access.keyring)
    except UnknownKey:
        if not await access.load_access():
            raise Unavailable(
                "this API key is not known here, and newer keys cannot be loaded now: try again"
            ) from None
    return find(access.keyring)
