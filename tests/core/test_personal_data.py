"""Recognition and redaction of personal data."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.personal_data import KINDS, occurrences, redacted

HOLDING = [
    ("write to ada.lovelace+x@mail.example.co.uk now", "email"),
    ("call +49 (30) 901 820-0", "phone"),
    ("call +14155552671.", "phone"),
    ("call (415) 555-2671", "phone"),
    ("call 0044 20 7946 0958", "phone"),
    ("appelez le 01 42 68 53 00", "phone"),
    ("rufen Sie (030) 123456 an", "phone"),
    ("rufen Sie 030 1234567 an", "phone"),
    ("0171/1234567", "phone"),
    ("write to jürgen@müller.example", "email"),
    ("card 4111-1111-1111-1111", "card"),
    ("card 378282246310005", "card"),
    ("IBAN DE89 3704 0044 0532 0130 00", "iban"),
    ("GB29NWBK60161331926819", "iban"),
    ("key sk-proj-abcdefghijklmnopqrstuvwx", "api_key"),
    ("AKIAIOSFODNN7EXAMPLE", "api_key"),
    ("ghp_" + "a1" * 18, "api_key"),
    ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY----- x", "api_key"),
    ("-----BEGIN PRIVATE KEY-----\nabc", "api_key"),
    ("pk_live_" + "a1" * 10, "api_key"),
    ("wald_adm_" + "a1" * 19, "api_key"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijkl", "api_key"),
]


@pytest.mark.parametrize(("text", "kind"), HOLDING)
def test_finds_each_kind(text, kind):
    assert [place.kind for place in occurrences(text)] == [kind]
    assert f"[{kind.replace('_', ' ')}]" in redacted(text)[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "on 2024-11-05 at 12:30",
        "05/11/2024 and 05.11.2024",
        "version 1.2.3, build 20240115",
        "order 4111 1111 1111 1112 fails the check digit",
        "0000 0000 0000 0000",
        "ISBN 978-3-16-148410-0",
        "user@localhost",
        "a @ b",
        "pi is 3.14159265358979",
        "DE89 1704 1044 1532 1130 00 fails the check digit",
        "sk-short",
        "1,000,000 to 2,000,000",
        "10.0.0.1 and 192.168.100.200",
    ],
)
def test_leaves_other_numbers_and_words_alone(text):
    assert occurrences(text) == []
    assert redacted(text) == (text, 0)


def test_redacts_all_occurrences_and_counts_them():
    text = "ada@example.org, bob@example.org and 4111111111111111"
    assert redacted(text) == ("[email], [email] and [card]", 3)
    assert redacted(text, ("card",)) == ("ada@example.org, bob@example.org and [card]", 1)


@given(st.text(alphabet="a1@+-. (0)Z9_", max_size=300))
def test_occurrences_lie_inside_the_text_without_overlaps(text):
    places = occurrences(text)
    ends = [0, *(place.end for place in places)]
    assert all(place.start >= end for place, end in zip(places, ends, strict=False))
    assert all(0 <= place.start < place.end <= len(text) for place in places)


@pytest.mark.parametrize(
    "unit", ["a", "1", "a@", "a.", "1 ", "+1", "A1", "DE89 ", "sk-", "eyJ", "-----BEGIN "]
)
def test_a_hostile_text_costs_no_more_than_its_length(unit):
    """Ten times the text takes far less than a hundred times as long."""

    def cost(length):
        text = unit * (length // len(unit))
        start = time.process_time()
        occurrences(text, KINDS)
        return time.process_time() - start

    assert cost(100_000) < 60 * max(cost(10_000), 0.001)
