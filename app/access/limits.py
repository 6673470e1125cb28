"""Bounds of access."""

from typing import Final

WRONG_KEYS_BURST: Final = 100  # that one address may send at once
WRONG_KEYS_PER_S: Final = 5.0  # and then per second
SIGN_INS_BURST: Final = 30  # of one API key, in the pages
SIGN_INS_PER_S: Final = 1.0
CALLERS_MAX: Final = 20_000  # that are remembered, about 3 MB

API_KEYS_MAX: Final = 1_000
API_KEY_NAME_LENGTH_MAX: Final = 128
SEEN_HEADERS_MAX: Final = 4_096
ACCESS_PROPAGATION_MS: Final = 10_000  # after which every server has loaded a new signing key
