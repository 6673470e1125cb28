"""Event types, filters, and which secrets sign."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.webhooks.model import (
    SECRET_USE,
    Adapter,
    Endpoint,
    Secrets,
    is_event_filter,
    is_event_type,
    wants,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WORDS = st.lists(st.from_regex(r"[a-z0-9_]{1,8}", fullmatch=True), min_size=1, max_size=5)


@pytest.mark.parametrize("text", ["rollout", "rollout.rolled_back", "a.b.c_9", "a" * 128])
def test_words_joined_by_dots_are_an_event_type(text):
    assert is_event_type(text)


@pytest.mark.parametrize(
    "text", ["", ".", "a.", ".a", "a..b", "A", "a b", "a\n", "a-b", "*", "a.*", "a" * 129]
)
def test_nothing_else_is_an_event_type(text):
    assert not is_event_type(text)


@pytest.mark.parametrize("text", ["*", "rollout", "rollout.*", "rollout.stage.*"])
def test_a_type_a_prefix_and_everything_are_filters(text):
    assert is_event_filter(text)


@pytest.mark.parametrize("text", ["", "**", ".*", "rollout*", "*.rollout", "rollout.*.*", "rollout.**"])
def test_a_star_stands_alone_or_for_the_last_words(text):
    assert not is_event_filter(text)


@given(WORDS)
def test_a_type_is_wanted_by_itself_by_each_of_its_prefixes_and_by_everything(words):
    event_type = ".".join(words)
    assert wants([event_type], event_type)
    assert wants(["*"], event_type)
    for length in range(1, len(words)):
        assert wants([".".join(words[:length]) + ".*"], event_type)


@given(WORDS, WORDS)
def test_a_prefix_admits_only_what_begins_with_its_words(prefix, words):
    admitted = len(words) > len(prefix) and words[: len(prefix)] == prefix
    assert wants([".".join(prefix) + ".*"], ".".join(words)) == admitted


def test_no_filter_admits_nothing():
    assert not wants([], "rollout.advanced")


def test_the_secret_before_a_rotation_signs_second_until_its_time_has_passed():
    secrets = Secrets("new", "old", NOW)
    assert secrets.in_force(NOW - timedelta(microseconds=1)) == ("new", "old")
    assert secrets.in_force(NOW) == ("new",)
    assert Secrets(None).in_force(NOW) == ()


def test_secrets_do_not_show_when_printed():
    secrets = Secrets("whsec_abc", "whsec_def", NOW)
    assert "whsec" not in f"{secrets} {secrets!r} {[secrets]}"


def test_a_secret_url_shows_only_its_host():
    endpoint = Endpoint(1, "https://hooks.slack.com/services/T0/B0/secret", Adapter.SLACK, ("*",), "", NOW)
    assert endpoint.shown_url == "https://hooks.slack.com/…"


def test_every_adapter_says_where_its_secret_comes_from():
    assert SECRET_USE.keys() == set(Adapter)
