"""The assignment id: a signed token that contains its assignment. Format: ARCHITECTURE.md.

Signatures are AES-CMAC (NIST SP 800-38B, RFC 4493) cut to 96 bits. A body is exactly three AES
blocks. Its CMAC is a CBC chain whose last block is first combined with the subkey K1. A batch of
any size therefore needs three AES-ECB calls, one per block position.
"""

import struct
from binascii import Error as BinasciiError
from collections.abc import Sequence
from contextlib import suppress
from enum import IntEnum, IntFlag
from hmac import compare_digest
from typing import Final, NamedTuple
from uuid import UUID

import msgspec
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import ECB
from numpy.typing import NDArray
from pybase64 import b64decode, urlsafe_b64encode

from app.core.errors import InvalidInput

FORMAT: Final = 1
BODY_BYTES: Final = 48
TAG_BYTES: Final = 12
TOKEN_LENGTH: Final = 80
RANDOM_BITS: Final = 74

BODY: Final = np.dtype(
    [
        ("format", "u1"),
        ("key_id", "u1"),
        ("flags", "u1"),
        ("variant", "u1"),
        ("experiment_id", ">u4"),
        ("epoch", ">u4"),
        ("policy_version", ">u4"),
        ("id", "V16"),
        ("propensity", ">f8"),
        ("unit_hash", ">i8"),
    ]
)
"""A body as one element of a numpy array."""

_BODY: Final = struct.Struct(">BBBBIII16sdq")
_BLOCK: Final = 16
_RAW_BYTES: Final = BODY_BYTES + TAG_BYTES
_URL_SAFE: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_FOREIGN: Final = b"*"
_FOREIGN_AS_STAR: Final = bytes(code if code in _URL_SAFE else _FOREIGN[0] for code in range(256))
_PLACEHOLDER: Final = "*" * TOKEN_LENGTH


class Flag(IntFlag):
    """Flags of an assignment."""

    UNRECORDED = 1  # no exposure was stored; left out of analysis


class Verdict(IntEnum):
    """Result of the verification of a token."""

    VALID = 0
    MALFORMED = 1  # not 80 characters of URL-safe base64, or another format
    UNKNOWN_KEY = 2  # signed under an unknown or retired key
    FORGED = 3  # the signature does not match the body


class InvalidAssignmentId(InvalidInput):
    """A token that is not a valid assignment id; `verdict` gives the reason."""

    kind = "invalid-assignment-id"

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(REASONS[verdict], field="assignment_id")
        self.verdict = verdict


REASONS: Final = {
    Verdict.MALFORMED: "not an assignment id: must be the 80 URL-safe base64 characters from /assign",
    Verdict.UNKNOWN_KEY: "signed under a key that is unknown or retired",
    Verdict.FORGED: "the signature does not match",
}
"""Text of each verdict except VALID, for the caller."""


class AssignmentId(msgspec.Struct, frozen=True):
    """Content of a token. `id` is a UUIDv7; the variant was drawn with `propensity`."""

    key_id: int
    flags: Flag
    variant: int
    experiment_id: int
    epoch: int
    policy_version: int
    id: UUID
    propensity: float
    unit_hash: int

    @classmethod
    def from_body(cls, body: bytes) -> "AssignmentId":
        """Read a body of 48 bytes that is verified or comes from our own stream."""
        _, key_id, flags, variant, experiment_id, epoch, version, raw, propensity, unit_hash = _BODY.unpack(
            body
        )
        return cls(
            key_id,
            Flag(flags),
            variant,
            experiment_id,
            epoch,
            version,
            UUID(bytes=raw),
            propensity,
            unit_hash,
        )

    @property
    def assigned_at_ms(self) -> int:
        """Time of the assignment, in milliseconds since the epoch."""
        return self.id.int >> 80


class VerifiedBatch(NamedTuple):
    """Bodies and verdicts of N tokens, in their order. Only a VALID body has a meaning."""

    bodies: NDArray[np.void]  # (N,) of BODY
    verdicts: NDArray[np.uint8]  # (N,) of Verdict


def uuid7(now_ms: int, random74: int) -> bytes:
    """Return a UUIDv7 (RFC 9562, section 5.7) of a time and 74 random bits."""
    high = now_ms << 16 | 0x7000 | random74 >> 62
    return (high << 64 | 1 << 63 | random74 & 0x3FFF_FFFF_FFFF_FFFF).to_bytes(16, "big")


def body(
    *,
    key_id: int,
    flags: int,
    variant: int,
    experiment_id: int,
    epoch: int,
    policy_version: int,
    id: bytes,  # noqa: A002 - the field's name in the format
    propensity: float,
    unit_hash: int,
) -> bytes:
    """Return the 48 bytes that are signed."""
    return _BODY.pack(
        FORMAT, key_id, flags, variant, experiment_id, epoch, policy_version, id, propensity, unit_hash
    )


def unrecorded(body: bytes) -> bytes:
    """Return the body with the flag UNRECORDED."""
    return body[:2] + bytes([body[2] | Flag.UNRECORDED]) + body[3:]


class Signer:
    """Signer of new ids under one key, and verifier under all keys.

    `keys` are one or more pairs (id, secret). The first signs unless `signing` names another. It
    keeps no state between calls, so it is safe to share.
    """

    def __init__(self, keys: Sequence[tuple[int, bytes]], signing: int | None = None) -> None:
        self.keys = tuple(keys)
        self.key_id = keys[0][0] if signing is None else signing
        """The key to put into a new body."""
        self._macs = {key_id: _Mac(secret) for key_id, secret in keys}

    def sign(self, body: bytes) -> str:
        """Return the token of a body, under its key, or under ours if that key is retired."""
        mac = self._macs.get(body[1])
        if mac is None:
            body = body[:1] + bytes([self.key_id]) + body[2:]
            mac = self._macs[self.key_id]
        return urlsafe_b64encode(body + mac.tag(body)[:TAG_BYTES]).decode("ascii")

    def verify(self, token: str) -> AssignmentId:
        """Verify a token and return its content. Raises InvalidAssignmentId."""
        if len(token) != TOKEN_LENGTH:
            raise InvalidAssignmentId(Verdict.MALFORMED)
        raw, malformed = _decoded(token.encode("ascii", "replace"))
        if malformed is not None or raw[0] != FORMAT:
            raise InvalidAssignmentId(Verdict.MALFORMED)
        body = raw[:BODY_BYTES]
        mac = self._macs.get(body[1])
        if mac is None:
            raise InvalidAssignmentId(Verdict.UNKNOWN_KEY)
        if not compare_digest(mac.tag(body)[:TAG_BYTES], raw[BODY_BYTES:]):
            raise InvalidAssignmentId(Verdict.FORGED)
        return AssignmentId.from_body(body)

    def verify_batch(self, tokens: Sequence[str]) -> VerifiedBatch:
        """Return the bodies and verdicts of N tokens, with the same verdicts as `verify`."""
        n = len(tokens)
        if set(map(len, tokens)) - {TOKEN_LENGTH}:
            tokens = [token if len(token) == TOKEN_LENGTH else _PLACEHOLDER for token in tokens]
        raw, malformed = _decoded("".join(tokens).encode("ascii", "replace"))
        words = np.frombuffer(raw, np.uint32).reshape(n, _RAW_BYTES // 4)
        bodies = np.ascontiguousarray(words[:, : BODY_BYTES // 4])
        heads = bodies.view(np.uint8)
        verdicts = np.full(n, Verdict.UNKNOWN_KEY, dtype=np.uint8)
        for key_id, mac in self._macs.items():
            signed = heads[:, 1] == key_id
            if signed.all():
                verdicts = _compare(mac.tags(bodies), words)
                break
            if signed.any():
                verdicts[signed] = _compare(mac.tags(bodies[signed]), words[signed])
        other_format = heads[:, 0] != FORMAT
        if other_format.any():
            verdicts[other_format] = Verdict.MALFORMED
        if malformed is not None:
            verdicts[malformed] = Verdict.MALFORMED
        return VerifiedBatch(bodies.view(BODY).reshape(n), verdicts)


class _Mac:
    """AES-CMAC of messages of exactly three blocks."""

    def __init__(self, secret: bytes) -> None:
        self._encrypt = Cipher(AES128(secret), ECB()).encryptor().update  # noqa: S305 - the bare block cipher
        doubled = int.from_bytes(self._encrypt(bytes(_BLOCK)), "big") << 1
        self._k1 = doubled & (1 << 128) - 1 ^ (0x87 if doubled >> 128 else 0)
        self._k1_words = np.frombuffer(self._k1.to_bytes(_BLOCK, "big"), np.uint64)

    def tag(self, body: bytes) -> bytes:
        """Return the tag of one message, 16 bytes."""
        encrypt, number = self._encrypt, int.from_bytes
        chained = number(encrypt(body[:16]), "big") ^ number(body[16:32], "big")
        chained = number(encrypt(chained.to_bytes(16, "big")), "big") ^ number(body[32:], "big") ^ self._k1
        return encrypt(chained.to_bytes(16, "big"))

    def tags(self, bodies: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Return the tags of N bodies: words (N, 4) for contiguous words (N, 12)."""
        words = bodies.view(np.uint64)
        first = self._encrypt_blocks(words[:, :2])
        second = self._encrypt_blocks(first ^ words[:, 2:4])
        return self._encrypt_blocks(second ^ words[:, 4:] ^ self._k1_words).view(np.uint32)

    def _encrypt_blocks(self, words: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return np.frombuffer(self._encrypt(words.tobytes()), np.uint64).reshape(-1, 2)


def _decoded(text: bytes) -> tuple[bytes, NDArray[np.bool_] | None]:
    """Return the bytes of joined tokens, and a mask of tokens with foreign characters, or None.

    80 characters of the alphabet are exactly 60 bytes, so each token has only one spelling.
    """
    # The decoder also admits the standard alphabet.
    if not (b"+" in text or b"/" in text or b"=" in text):
        with suppress(BinasciiError):
            return b64decode(text, altchars=b"-_", validate=True), None
    text = text.translate(_FOREIGN_AS_STAR)
    malformed = (np.frombuffer(text, np.uint8).reshape(-1, TOKEN_LENGTH) == _FOREIGN[0]).any(axis=1)
    return b64decode(text.replace(_FOREIGN, b"A"), altchars=b"-_", validate=True), malformed


def _compare(tags: NDArray[np.uint32], words: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Return VALID or FORGED for each of N, in a time independent of where tags differ."""
    given = words[:, BODY_BYTES // 4 :]
    difference = (tags[:, 0] ^ given[:, 0]) | (tags[:, 1] ^ given[:, 1]) | (tags[:, 2] ^ given[:, 2])
    verdicts = np.zeros(len(difference), np.uint8)
    if difference.any():
        verdicts[difference != 0] = Verdict.FORGED
    return verdicts
