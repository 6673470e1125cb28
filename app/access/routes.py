"""API keys over HTTP, for administrators. Needs the dependency `access: AccessService`."""

from datetime import datetime
from typing import Final, Self

import msgspec
from litestar import delete, get, post

from app.access.guards import requires
from app.access.model import KeyKind, Scope, StoredKey
from app.access.service import AccessService, KeyRequest


class KeyView(msgspec.Struct, frozen=True):
    """A key without its secret. `hint` tells it from others."""

    id: int
    name: str
    kind: KeyKind
    scopes: list[Scope]
    hint: str
    created_at: datetime
    expires_at: datetime | None

    @classmethod
    def of(cls, key: StoredKey) -> Self:
        """Return the view of a stored key."""
        return cls(
            id=key.id,
            name=key.name,
            kind=key.kind,
            scopes=sorted(key.scopes),
            hint=key.hint,
            created_at=key.created_at,
            expires_at=key.expires_at,
        )


class KeyList(msgspec.Struct, frozen=True):
    """All keys that are not revoked, oldest first."""

    keys: list[KeyView]


class CreatedKey(msgspec.Struct, frozen=True):
    """A new key. `secret` is the key itself, and is shown this once."""

    key: KeyView
    secret: str


@post("/keys", guards=[requires(Scope.ADMIN)], status_code=201)
async def create_key(data: KeyRequest, access: AccessService) -> CreatedKey:
    """Make an API key. Its secret is in this answer and nowhere else."""
    stored, secret = await access.create(data)
    return CreatedKey(KeyView.of(stored), secret)


@get("/keys", guards=[requires(Scope.ADMIN)])
async def list_keys(access: AccessService) -> KeyList:
    """List the API keys that are not revoked."""
    return KeyList([KeyView.of(key) for key in await access.list()])


@delete("/keys/{key_id:int}", guards=[requires(Scope.ADMIN)], status_code=204)
async def revoke_key(key_id: int, access: AccessService) -> None:
    """Revoke an API key: all servers refuse it within seconds. 404 when there is none."""
    await access.revoke(key_id)


ROUTES: Final = [create_key, list_keys, revoke_key]
