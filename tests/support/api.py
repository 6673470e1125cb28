"""Some of the routes in an application of their own, called in process."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx2
from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide

from app.access.model import AccessSnapshot, ApiKey, KeyKind, KeyRing, Scope, digest
from app.core.http import EXCEPTION_HANDLERS, require_json

KEYS = {scope: f"a-key-that-may-{scope}" for scope in Scope}
MASTER_KEY = "a-key-that-may-do-everything"


def keyring_of_scopes() -> KeyRing:
    """One key per scope, `KEYS`, and one with all of them, `MASTER_KEY`."""
    scopes = {key: frozenset({scope}) for scope, key in KEYS.items()} | {MASTER_KEY: frozenset(Scope)}
    keys = (
        ApiKey(number, KeyKind.ADMIN, digest(key), held)
        for number, (key, held) in enumerate(scopes.items(), start=1)
    )
    return KeyRing(AccessSnapshot(1, tuple(keys)))


@asynccontextmanager
async def api(
    routes: Sequence[Any], dependencies: Mapping[str, Any], keyring: KeyRing | None
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of `routes`, each dependency being provided as the object given."""
    app = Litestar(
        list(routes),
        dependencies={name: _provide(value) for name, value in dependencies.items()},
        exception_handlers=EXCEPTION_HANDLERS,
        before_request=require_json,
        state=State({"access": SimpleNamespace(keyring=keyring, load_access=_no_newer_keys)}),
    )
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://wald") as client:
        yield client


async def _no_newer_keys() -> bool:
    return True


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


def _provide(value: Any) -> Provide:
    def the_value() -> Any:
        return value

    return Provide(the_value, sync_to_thread=False)
