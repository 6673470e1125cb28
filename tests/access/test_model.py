"""Keys, scopes and the key ring."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access import limits
from app.access.model import (
    SCOPES,
    AccessSnapshot,
    ApiKey,
    KeyKind,
    KeyRing,
    Scope,
    SigningKey,
    credential,
    digest,
    hint,
    is_mistyped,
    plaintext,
)
from app.core.errors import Forbidden, Unauthorized, Unavailable

NOW_MS = 1_800_000_000_000
KINDS = st.sampled_from(KeyKind)
RANDOM = st.binary(min_size=32, max_size=32)


def ring(*keys: tuple[str, ApiKey], signing: tuple[SigningKey, ...] = ()) -> KeyRing:
    return KeyRing(AccessSnapshot(1, tuple(key for _, key in keys), signing))


def held(key: str, kind: KeyKind = KeyKind.ADMIN, expires_at_ms: int | None = None) -> tuple[str, ApiKey]:
    return key, ApiKey(1, kind, digest(key), SCOPES[kind], expires_at_ms)


@given(KINDS, RANDOM)
def test_a_key_has_its_form_and_is_not_mistyped(kind, random):
    key = plaintext(kind, random)
    assert re.fullmatch(rf"wald_{kind}_[0-9A-Za-z]{{38}}", key)
    assert not is_mistyped(key)


@given(KINDS, RANDOM, st.data())
def test_any_wrong_character_of_a_key_is_detected(kind, random, data):
    key = plaintext(kind, random)
    place = data.draw(st.integers(len("wald_"), len(key) - 1))
    wrong = data.draw(st.sampled_from("abcXYZ019").filter(lambda character: character != key[place]))
    assert is_mistyped(key[:place] + wrong + key[place + 1 :])


@given(st.text(min_size=8).filter(lambda key: not key.startswith("wald_")))
def test_a_preset_key_is_never_called_mistyped(key):
    assert not is_mistyped(key)


def test_different_random_bytes_give_different_keys():
    assert plaintext(KeyKind.SERVER, bytes(32)) != plaintext(KeyKind.SERVER, bytes(31) + b"\1")


def test_the_hint_shows_kind_and_last_four_of_ours_and_nothing_of_a_short_one():
    key = plaintext(KeyKind.CLIENT, bytes(range(32)))
    assert hint(key) == f"wald_cli_…{key[-4:]}"
    assert hint("hunter22") == "…"


@pytest.mark.parametrize("kind", KeyKind)
@pytest.mark.parametrize("scope", Scope)
def test_a_key_does_what_its_kind_may_and_nothing_else(kind, scope):
    header = b"Bearer some-key"
    key, stored = held("some-key", kind)
    if scope in SCOPES[kind]:
        assert ring((key, stored)).authenticate(header, scope, NOW_MS) == stored
    else:
        with pytest.raises(Forbidden, match=f"lacks the scope {scope}"):
            ring((key, stored)).authenticate(header, scope, NOW_MS)


def test_client_keys_assign_and_give_feedback_only():
    assert SCOPES[KeyKind.CLIENT] == {Scope.ASSIGN, Scope.FEEDBACK}
    assert held("some-key", KeyKind.CLIENT)[1].client
    assert not held("some-key", KeyKind.SERVER)[1].client


@pytest.mark.parametrize("header", [b"Bearer some-key", b"bearer some-key", b"BEARER  some-key "])
def test_the_scheme_is_case_insensitive_and_space_around_the_key_is_ignored(header):
    key, stored = held("some-key")
    assert ring((key, stored)).authenticate(header, Scope.READ, NOW_MS) is stored


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "no API key"),
        (b"", "must be `Bearer KEY`"),
        (b"Bearer", "must be `Bearer KEY`"),
        (b"Bearer  ", "must be `Bearer KEY`"),
        (b"Basic c29tZS1rZXk=", "must be `Bearer KEY`"),
        (b"some-key", "must be `Bearer KEY`"),
        (b"Bearer other-key", "unknown API key"),
        (b"Bearer \xff\x00", "unknown API key"),
        (b"Bearer wald_srv_0123", "mistyped"),
        (f"Bearer {plaintext(KeyKind.SERVER, bytes(32))}".encode(), "unknown API key"),
        (f"Bearer {plaintext(KeyKind.SERVER, bytes(32))[:-1]}x".encode(), "mistyped"),
    ],
)
def test_an_unknown_caller_is_refused_with_the_reason(header, reason):
    with pytest.raises(Unauthorized, match=re.escape(reason)):
        ring(held("some-key")).authenticate(header, Scope.ASSIGN, NOW_MS)


def test_a_key_is_refused_from_the_moment_it_expires_even_when_it_was_seen_before():
    keys = ring(held("some-key", expires_at_ms=NOW_MS))
    assert keys.authenticate(b"Bearer some-key", Scope.READ, NOW_MS - 1)
    with pytest.raises(Unauthorized, match="expired"):
        keys.authenticate(b"Bearer some-key", Scope.READ, NOW_MS)


def test_headers_that_were_seen_are_remembered_up_to_a_bound():
    keys = ring(held("some-key"))
    for spaces in range(limits.SEEN_HEADERS_MAX + 10):
        keys.authenticate(b"Bearer some-key" + b" " * spaces, Scope.READ, NOW_MS)
        with pytest.raises(Unauthorized):
            keys.authenticate(b"Bearer unknown" + b" " * spaces, Scope.READ, NOW_MS)
    assert 0 < len(keys._seen) <= limits.SEEN_HEADERS_MAX


def test_the_key_may_come_in_a_header_of_its_own_which_wins():
    own, authorization = (b"x-api-key", b"some-key"), (b"authorization", b"Basic proxy")
    assert credential([own]) == b"Bearer some-key"
    assert credential([authorization, own]) == b"Bearer some-key"
    assert credential([(b"authorization", b"Bearer k"), (b"host", b"h")]) == b"Bearer k"
    assert credential([(b"host", b"h")]) is None


def test_a_new_signing_key_signs_once_every_server_has_had_the_time_to_load_it():
    old, new = SigningKey(1, bytes(16), NOW_MS - 86_400_000), SigningKey(2, bytes(16), NOW_MS)
    keys = ring(signing=(new, old))
    assert keys.signing_key(NOW_MS) is old
    assert keys.signing_key(NOW_MS + limits.ACCESS_PROPAGATION_MS - 1) is old
    assert keys.signing_key(NOW_MS + limits.ACCESS_PROPAGATION_MS) is new


def test_the_first_signing_key_signs_at_once():
    first = SigningKey(1, bytes(16), NOW_MS)
    assert ring(signing=(first,)).signing_key(NOW_MS) is first


def test_without_a_signing_key_nothing_is_signed():
    with pytest.raises(Unavailable):
        ring().signing_key(NOW_MS)
