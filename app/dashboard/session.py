"""Sessions of the pages: a cookie that names an API key and cannot be forged. Pure.

A token is the id of the key (4 bytes), the end of the session (8 bytes, ms) and the first 16 bytes
of an HMAC-SHA256 of both and of the key's digest, under a signing secret of the server: 28 bytes,
URL-safe base64. Every request looks the key up again, so a session ends with its key. Retiring a
signing secret ends the sessions under it as well. Signing out keeps the digest of the token, which
every server then refuses.
"""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime
from hashlib import sha256
from struct import Struct
from typing import Final, NamedTuple

from app.access.model import ApiKey, KeyRing, Scope, SigningKey
from app.core.errors import Unauthorized

COOKIE: Final = "wald_session"
SESSION_S: Final = 12 * 3_600

_BODY: Final = Struct(">IQ")
_MAC_BYTES: Final = 16
_PURPOSE: Final = b"wald session 1"


def issue(key: ApiKey, keyring: KeyRing, now_ms: int) -> str:
    """Return a token for the holder of `key`, valid for `SESSION_S`. Raises Unavailable without a secret."""
    body = _BODY.pack(key.id, now_ms + SESSION_S * 1_000)
    token = body + _mac(keyring.signing_key(now_ms), body, key)
    return urlsafe_b64encode(token).rstrip(b"=").decode()


def authenticate(token: str, keyring: KeyRing, now_ms: int, scope: Scope = Scope.READ) -> ApiKey:
    """Return the key of a valid session with the scope.

    Raises Unauthorized if the token is malformed, forged or expired, or its key is revoked or
    expired; Forbidden if the key lacks the scope.
    """
    body, mac, _ = _parts(token)
    key_id, ends_at_ms = _BODY.unpack(body)
    if ends_at_ms <= now_ms:
        raise Unauthorized("the session has expired: sign in again")
    key = keyring.by_id(key_id, scope, now_ms)
    if not any(hmac.compare_digest(mac, _mac(secret, body, key)) for secret in keyring.signing_keys):
        raise Unauthorized("the session is not one of this server: sign in again")
    return key


class Session(NamedTuple):
    """The stored part of a session that was signed out."""

    digest: bytes
    ends_at: datetime


def identity(token: str) -> Session:
    """Return the digest and end of a valid token. All spellings of a token have one digest."""
    body, _, raw = _parts(token)
    _, ends_at_ms = _BODY.unpack(body)
    return Session(sha256(raw).digest(), datetime.fromtimestamp(ends_at_ms / 1_000, UTC))


def _parts(token: str) -> tuple[bytes, bytes, bytes]:
    """Return body, MAC and all bytes of a token. Raises Unauthorized if it is malformed."""
    try:
        raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except ValueError as error:
        raise Unauthorized("the session cannot be read: sign in again") from error
    if len(raw) != _BODY.size + _MAC_BYTES:
        raise Unauthorized("the session cannot be read: sign in again")
    return raw[: _BODY.size], raw[_BODY.size :], raw


def _mac(secret: SigningKey, body: bytes, key: ApiKey) -> bytes:
    return hmac.digest(secret.secret, _PURPOSE + body + key.digest, "sha256")[:_MAC_BYTES]
