"""Types and rules of access: scopes, API keys and signing keys. Pure.

An API key has the form `wald_{kind}_{32 base62 characters}{6 base62 characters of CRC-32}`. It has
190 random bits, so a plain SHA-256 is a safe way to store it. The checksum only distinguishes a
mistyped key from an unknown one.
"""

import re
import string
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Final
from zlib import crc32

import msgspec

from app.access import limits
from app.core.errors import Forbidden, Unauthorized, Unavailable


class UnknownKey(Unauthorized):
    """A well-formed API key that is not in the key ring: revoked, invented, or newer."""


class Scope(StrEnum):
    """A permission of a key."""

    ASSIGN = "assign"
    FEEDBACK = "feedback"
    READ = "read"
    REVIEW = "review"
    ADMIN = "admin"


class KeyKind(StrEnum):
    """The kind of place that may hold a key."""

    CLIENT = "cli"  # a browser or an app: it may send feedback only by signed assignment id
    SERVER = "srv"
    ADMIN = "adm"


SCOPES: Final = {
    KeyKind.CLIENT: frozenset({Scope.ASSIGN, Scope.FEEDBACK}),
    KeyKind.SERVER: frozenset({Scope.ASSIGN, Scope.FEEDBACK, Scope.READ}),
    KeyKind.ADMIN: frozenset(Scope),
}
"""The scopes of a key that names only its kind."""

NAMED_SCOPES: Final = {KeyKind.SERVER: frozenset({Scope.REVIEW})}
"""Further scopes that a key of a kind can have if it names them: only people review, not programs."""


class ApiKey(msgspec.Struct, frozen=True):
    """A key as servers know it: by its SHA-256 digest."""

    id: int
    kind: KeyKind
    digest: bytes
    scopes: frozenset[Scope]
    expires_at_ms: int | None = None

    @property
    def client(self) -> bool:
        """Whether users can read the key. It may then name assignments only by their signed ids."""
        return self.kind is KeyKind.CLIENT


class SigningKey(msgspec.Struct, frozen=True):
    """An AES-128 secret (16 bytes) that signs assignment ids. Each id contains `id`, 1 to 255."""

    id: int
    secret: bytes
    created_at_ms: int


class AccessSnapshot(msgspec.Struct, frozen=True):
    """Keys that servers load: API keys in force, and signing keys that verify, newest first."""

    revision: int
    api_keys: tuple[ApiKey, ...] = ()
    signing_keys: tuple[SigningKey, ...] = ()


class StoredKey(msgspec.Struct, frozen=True):
    """A key as administrators see it."""

    id: int
    name: str
    kind: KeyKind
    scopes: frozenset[Scope]
    hint: str
    created_at: datetime
    expires_at: datetime | None


class KeyRing:
    """Look-up of the keys in one snapshot. A newer snapshot needs a new key ring."""

    def __init__(self, snapshot: AccessSnapshot) -> None:
        self.snapshot = snapshot
        self.revision = snapshot.revision
        self.signing_keys: Sequence[SigningKey] = snapshot.signing_keys
        self._by_digest = {key.digest: key for key in snapshot.api_keys}
        self._by_id = {key.id: key for key in snapshot.api_keys}
        self._seen: dict[bytes, ApiKey] = {}

    def authenticate(self, authorization: bytes | None, scope: Scope, now_ms: int) -> ApiKey:
        """Return the key in the value of an `Authorization` header, if it has the scope.

        Raises Unauthorized if there is no key, or it is malformed, unknown, revoked or expired
        (UnknownKey for a well-formed key that may be newer than this key ring). Raises Forbidden if
        it lacks the scope. A header seen before costs one dictionary look-up.
        """
        key = None if authorization is None else self._seen.get(authorization)
        if key is None:
            key = self._identify(authorization)
        return _permitted(key, scope, now_ms)

    def knows(self, authorization: bytes) -> bool:
        """Return whether an `Authorization` header carries one of these keys, expired or not."""
        return authorization in self._seen or sha256(_secret_in(authorization)).digest() in self._by_digest

    def admits(self, headers: Iterable[tuple[bytes, bytes]], scope: Scope, now_ms: int) -> bool:
        """Return whether ASGI headers carry a key with this scope."""
        header = credential(headers)
        try:
            return header is not None and self.authenticate(header, scope, now_ms) is not None
        except (Unauthorized, Forbidden):
            return False

    def by_id(self, key_id: int, scope: Scope, now_ms: int) -> ApiKey:
        """Return the key with this id, for a caller who has proved it. Raises as above."""
        key = self._by_id.get(key_id)
        if key is None:
            raise UnknownKey("this API key is unknown or revoked")
        return _permitted(key, scope, now_ms)

    def signing_key(self, now_ms: int) -> SigningKey:
        """Return the key to sign with: the newest that every server has had time to load.

        Raises Unavailable before the first is published.
        """
        for key in self.signing_keys:
            if key.created_at_ms + limits.ACCESS_PROPAGATION_MS <= now_ms:
                return key
        if not self.signing_keys:
            raise Unavailable("no signing key for assignment ids is published yet")
        return self.signing_keys[-1]

    def _identify(self, authorization: bytes | None) -> ApiKey:
        if authorization is None:
            raise Unauthorized("no API key: send it as `Authorization: Bearer KEY`")
        secret = _secret_in(authorization)
        if not secret:
            raise Unauthorized("the Authorization header must be `Bearer KEY`")
        key = self._by_digest.get(sha256(secret).digest())
        if key is None:
            key_text = secret.decode("ascii", "replace")
            if is_mistyped(key_text):
                raise Unauthorized("this API key is mistyped: its checksum does not match")
            if key_text.startswith(_PREFIX):
                raise UnknownKey("unknown API key")
            raise Unauthorized("unknown API key")
        if len(self._seen) >= limits.SEEN_HEADERS_MAX:
            self._seen.clear()
        self._seen[authorization] = key
        return key


def _secret_in(authorization: bytes) -> bytes:
    """Return the key in `Bearer KEY`; empty for any other header."""
    scheme, _, text = authorization.partition(b" ")
    return text.strip() if scheme.lower() == b"bearer" else b""


def _permitted(key: ApiKey, scope: Scope, now_ms: int) -> ApiKey:
    if key.expires_at_ms is not None and key.expires_at_ms <= now_ms:
        raise Unauthorized("this API key has expired")
    # Administrators may review, also with keys that are older than this scope.
    if scope not in key.scopes and not (scope is Scope.REVIEW and Scope.ADMIN in key.scopes):
        allowed = ", ".join(sorted(key.scopes)) or "none"
        raise Forbidden(f"this API key lacks the scope {scope}; it has {allowed}")
    return key


def credential(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return the value for `KeyRing.authenticate` from ASGI headers; None if they carry no key.

    `X-API-Key: KEY` wins over `Authorization`, which a proxy may have set to its own value.
    """
    authorization = None
    for name, value in headers:
        if name == b"x-api-key":
            return b"Bearer " + value
        if name == b"authorization":
            authorization = value
    return authorization


def plaintext(kind: KeyKind, random: bytes) -> str:
    """Return the key made from `random`: at least 24 bytes from a cryptographic source."""
    body = f"wald_{kind}_{_base62(int.from_bytes(random, 'big'), 32)}"
    return body + _checksum(body)


def is_mistyped(key: str) -> bool:
    """Return whether a text has the prefix of our keys but not their format or checksum."""
    if not key.startswith(_PREFIX):
        return False
    return _KEY.fullmatch(key) is None or _checksum(key[:-6]) != key[-6:]


def digest(key: str) -> bytes:
    """Return the digest under which a key is stored."""
    return sha256(key.encode()).digest()


def hint(key: str) -> str:
    """Return what may be shown of a key: kind and last four characters; nothing of a short key."""
    if len(key) < 24:
        return "…"
    head = key[:9] if _KEY.fullmatch(key) else ""
    return f"{head}…{key[-4:]}"


_PREFIX: Final = "wald_"
_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_KEY: Final = re.compile(r"wald_(cli|srv|adm)_[0-9A-Za-z]{38}")


def _base62(number: int, length: int) -> str:
    """Return the last `length` digits of `number` in base 62."""
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def _checksum(body: str) -> str:
    return _base62(crc32(body.encode()), 6)
