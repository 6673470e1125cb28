"""Refusal of wrong keys: 401 a hundred times, then 429 before the framework runs."""

from collections.abc import Callable
from time import monotonic
from typing import Any

from litestar.connection import ASGIConnection

from app.access import limits
from app.access.model import ApiKey, KeyRing, credential
from app.access.throttle import Throttle, caller_of
from app.core.errors import TooManyRequests, Unauthorized
from app.core.http import send_problem
from app.core.serving import ASGIApp


class Refusals:
    """Rate limits of one process: wrong keys by address, sign-ins by key. Valid keys pass."""

    def __init__(self) -> None:
        self.wrong_keys = Throttle(burst=limits.WRONG_KEYS_BURST, per_s=limits.WRONG_KEYS_PER_S)
        self.sign_ins = Throttle(burst=limits.SIGN_INS_BURST, per_s=limits.SIGN_INS_PER_S)

    def wrong_key(self, connection: ASGIConnection[Any, Any, Any, Any], error: Unauthorized) -> Unauthorized:
        """Return `error`; raise TooManyRequests if this address has sent too many wrong keys."""
        wait_s = self.wrong_keys.charge(caller_of(connection.scope.get("client")), monotonic())
        if wait_s > 0:
            raise _too_many(wait_s) from error
        return error

    def sign_in(self, key: ApiKey) -> None:
        """Count one sign-in with a key. Raises TooManyRequests after too many."""
        wait_s = self.sign_ins.charge(str(key.id), monotonic())
        if wait_s > 0:
            raise TooManyRequests(
                "too many sign-ins with this API key: wait, then try again", retry_after_s=wait_s
            )


def charged(
    connection: ASGIConnection[Any, Any, Any, Any], header: bytes | None, error: Unauthorized
) -> Unauthorized:
    """Count a wrong key of an address and return `error`. Raises TooManyRequests after too many."""
    refusals: Refusals | None = connection.app.state.get("refusals")
    return error if header is None or refusals is None else refusals.wrong_key(connection, error)


def refusing_early(app: ASGIApp, refusals: Refusals, keyring: Callable[[], KeyRing | None]) -> ASGIApp:
    """Wrap `app`: answer 429 at once to a wrong key from an address that has sent too many.

    That takes about a seventh of the time that the framework needs to refuse.
    """

    async def refuse_or_pass(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            wait_s = refusals.wrong_keys.wait_s(caller_of(scope.get("client")), monotonic())
            if wait_s > 0 and _is_wrong(credential(scope["headers"]), keyring()):
                await send_problem(send, _too_many(wait_s))
                return
        await app(scope, receive, send)

    return refuse_or_pass


def _is_wrong(header: bytes | None, keyring: KeyRing | None) -> bool:
    return header is not None and keyring is not None and not keyring.knows(header)


def _too_many(wait_s: float) -> TooManyRequests:
    return TooManyRequests(
        "too many wrong API keys from this address, and this one is wrong too: check the key",
        retry_after_s=wait_s,
    )
