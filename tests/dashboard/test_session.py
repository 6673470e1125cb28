import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access.model import AccessSnapshot, ApiKey, KeyKind, KeyRing, Scope, SigningKey
from app.core.errors import Forbidden, Unauthorized
from app.dashboard import session

NOW_MS = 1_800_000_000_000
READER = ApiKey(7, KeyKind.SERVER, b"d" * 32, frozenset({Scope.READ}))
WRITER = ApiKey(8, KeyKind.SERVER, b"e" * 32, frozenset({Scope.FEEDBACK}))
SECRET = SigningKey(1, b"s" * 16, 0)


def keyring(*keys: ApiKey, secrets: tuple[SigningKey, ...] = (SECRET,)) -> KeyRing:
    return KeyRing(AccessSnapshot(1, keys, secrets))


RING = keyring(READER, WRITER)


def test_a_session_is_its_keys_until_its_end():
    token = session.issue(READER, RING, NOW_MS)
    assert session.authenticate(token, RING, NOW_MS + session.SESSION_S * 1_000 - 1) == READER
    with pytest.raises(Unauthorized, match="expired"):
        session.authenticate(token, RING, NOW_MS + session.SESSION_S * 1_000)


def test_a_session_survives_the_rotation_of_secrets_and_not_their_retirement():
    token, newer = session.issue(READER, RING, NOW_MS), SigningKey(2, b"n" * 16, NOW_MS)
    assert session.authenticate(token, keyring(READER, secrets=(newer, SECRET)), NOW_MS) == READER
    with pytest.raises(Unauthorized, match="not one of this server"):
        session.authenticate(token, keyring(READER, secrets=(newer,)), NOW_MS)


def test_a_session_of_a_key_that_may_not_read_is_refused():
    with pytest.raises(Forbidden):
        session.authenticate(session.issue(WRITER, RING, NOW_MS), RING, NOW_MS)


def test_a_session_does_not_pass_to_another_key_with_the_same_id():
    other = ApiKey(7, KeyKind.SERVER, b"x" * 32, frozenset({Scope.READ}))
    with pytest.raises(Unauthorized):
        session.authenticate(session.issue(READER, RING, NOW_MS), keyring(other), NOW_MS)


@given(st.integers(0, 27), st.integers(1, 255))
def test_no_byte_of_a_session_can_be_changed(position, change):
    raw = bytearray(base64.urlsafe_b64decode(session.issue(READER, RING, NOW_MS) + "=="))
    raw[position] ^= change
    with pytest.raises(Unauthorized):
        session.authenticate(base64.urlsafe_b64encode(raw).decode(), RING, NOW_MS)


@given(st.text())
def test_any_other_text_is_refused(token):
    with pytest.raises(Unauthorized):
        session.authenticate(token, RING, NOW_MS)
