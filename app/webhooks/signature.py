"""Signatures of Standard Webhooks 1.0.0, version v1: HMAC-SHA256 of `id.timestamp.body`. Pure."""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

SECRET_BYTES: Final = 32
"""Size of a secret. The specification requires 24 to 64 bytes."""

_PREFIX: Final = "whsec_"


def secret_text(secret: bytes) -> str:
    """Return a secret as receivers configure it."""
    return _PREFIX + b64encode(secret).decode()


def signature_header(secrets: Iterable[str], *, webhook_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`, with one signature per secret.

    During a rotation, receivers may verify with either secret. `timestamp` is the time of the
    attempt, in seconds since the epoch.
    """
    signed = b"%b.%d.%b" % (webhook_id.encode(), timestamp, body)
    return " ".join(f"v1,{b64encode(_digest(secret, signed)).decode()}" for secret in secrets)


def _digest(secret: str, signed: bytes) -> bytes:
    return hmac.digest(b64decode(secret.removeprefix(_PREFIX)), signed, sha256)
