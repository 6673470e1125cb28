"""The requests that receivers understand, by their documented shapes."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.webhooks.adapters import ALERT_LASTS, Facts, Severity, dedup_key, post_for
from app.webhooks.model import Adapter, Message
from app.webhooks.signature import secret_text

AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
SENT_AT = AT + timedelta(minutes=7)
SECRET = secret_text(bytes(range(32)))
DATA = {
    "summary": "p95 latency +31 % <in> control & canary",
    "severity": "critical",
    "experiment": "summary-prompt",
    "variant": "short",
    "link": "https://wald.example/rollouts/7",
    "decision": {"statistic": 41.5, "threshold": 20},
}


def message(event_type: str = "rollout.rolled_back", /, **data: object) -> Message:
    body = json.dumps({"type": event_type, "timestamp": "2026-01-01T12:00:00Z", "data": data})
    return Message(UUID(int=7), event_type, body, AT)


def sent(adapter: Adapter, told: Message, *secrets: str):
    post = post_for(adapter, told, secrets=secrets, at=SENT_AT)
    assert post.headers["Content-Type"] == "application/json"
    assert post.headers["User-Agent"].startswith("wald/")
    return post.headers, json.loads(post.body)


def test_standard_sends_the_very_body_with_id_time_of_the_attempt_and_signature():
    told = message(**DATA)
    post = post_for(Adapter.STANDARD, told, secrets=[SECRET], at=SENT_AT)
    assert post.body == told.body.encode()
    assert post.headers["webhook-id"] == "msg_00000000000000000000000000000007"
    assert post.headers["webhook-timestamp"] == str(int(SENT_AT.timestamp()))
    assert post.headers["webhook-signature"].startswith("v1,")


def test_slack_gets_a_fallback_text_and_blocks_with_its_three_signs_escaped():
    _, body = sent(Adapter.SLACK, message(**DATA))
    escaped = "p95 latency +31 % &lt;in&gt; control &amp; canary"
    assert body["text"] == f"rollout.rolled_back: {escaped}"
    section, fields, context = body["blocks"]
    assert section["text"] == {"type": "mrkdwn", "text": f"*rollout.rolled_back*\n{escaped}"}
    assert [field["text"] for field in fields["fields"]] == [
        "*experiment*\nsummary-prompt",
        "*variant*\nshort",
        "*severity*\ncritical",
    ]
    assert context["elements"][0]["text"] == "<https://wald.example/rollouts/7>"


def test_pagerduty_gets_an_event_under_the_key_of_experiment_and_variant():
    _, body = sent(Adapter.PAGERDUTY, message(**DATA), "routing-key")
    assert body == {
        "routing_key": "routing-key",
        "event_action": "trigger",
        "dedup_key": "wald:summary-prompt:short",
        "payload": {
            "summary": DATA["summary"],
            "source": "wald",
            "severity": "critical",
            "timestamp": "2026-01-01T12:00:00Z",
            "component": "summary-prompt",
            "group": "short",
            "class": "rollout.rolled_back",
            "custom_details": DATA,
        },
        "links": [{"href": "https://wald.example/rollouts/7", "text": "Wald"}],
    }


def test_what_is_resolved_closes_the_pagerduty_incident_that_it_opened():
    opened = sent(Adapter.PAGERDUTY, message("alert.fired", **DATA), "k")[1]
    closed = sent(Adapter.PAGERDUTY, message("alert.resolved", **DATA, resolved=True), "k")[1]
    assert closed["event_action"] == "resolve"
    assert closed["dedup_key"] == opened["dedup_key"]


def test_alertmanager_gets_an_alert_that_lasts_until_it_is_resolved():
    _, fired = sent(Adapter.ALERTMANAGER, message("alert.fired", **DATA))
    headers, resolved = sent(
        Adapter.ALERTMANAGER, message("alert.resolved", **DATA, resolved=True), "a-token"
    )
    assert headers["Authorization"] == "Bearer a-token"
    assert fired[0]["labels"] == {
        "alertname": "Wald",
        "severity": "critical",
        "incident": "wald:summary-prompt:short",
        "experiment": "summary-prompt",
        "variant": "short",
    }
    assert fired[0]["startsAt"] == "2026-01-01T12:00:00Z"
    assert datetime.fromisoformat(fired[0]["endsAt"]) == AT + ALERT_LASTS
    assert fired[0]["annotations"] == {"summary": DATA["summary"], "event": "alert.fired"}
    assert fired[0]["generatorURL"] == DATA["link"]
    assert resolved[0]["labels"] == fired[0]["labels"]
    assert resolved[0]["endsAt"] == resolved[0]["startsAt"]


def test_alertmanager_keeps_one_alert_of_an_incident_as_the_last_event_left_it():
    """As Alertmanager does: what has the same labels is the same alert, the newest says whether it fires."""
    firing: dict[str, str] = {}

    def alerts(event_type: str, severity: str, variant: str, **more: object) -> list[str]:
        about = {"severity": severity, "experiment": "answers", "variant": variant, "incident": "rollout-7"}
        for alert in sent(Adapter.ALERTMANAGER, message(event_type, **about, **more))[1]:
            key = json.dumps(alert["labels"], sort_keys=True)
            firing.pop(key, None)
            if alert["endsAt"] > alert["startsAt"]:
                firing[key] = alert["labels"]["severity"]
        return list(firing.values())

    assert alerts("rollout.started", "info", "v2, v3", resolved=True) == []
    assert alerts("rollout.held", "warning", "v2, v3") == ["warning"]
    assert alerts("rollout.advanced", "info", "v2, v3", resolved=True) == []
    assert alerts("rollout.held", "warning", "v2, v3") == ["warning"]
    assert alerts("rollout.rolled_back", "critical", "v3") == ["critical"]
    assert alerts("rollout.completed", "info", "v2, v3", resolved=True) == []


def test_github_gets_a_dispatch_with_the_event_as_its_payload():
    headers, body = sent(Adapter.GITHUB, message(**DATA), "a-token")
    assert headers["Authorization"] == "Bearer a-token"
    assert headers["Accept"] == "application/vnd.github+json"
    assert body == {
        "event_type": "rollout.rolled_back",
        "client_payload": {
            "id": "msg_00000000000000000000000000000007",
            "type": "rollout.rolled_back",
            "timestamp": "2026-01-01T12:00:00Z",
            "data": DATA,
        },
    }


@pytest.mark.parametrize("adapter", Adapter)
def test_an_event_without_facts_is_sent_too(adapter):
    post = post_for(adapter, message("webhook.ping"), secrets=[SECRET], at=SENT_AT)
    assert b"webhook.ping" in post.body


TEXTS = st.text(max_size=3_000) | st.sampled_from(["&" * 3_000, "<" * 2_999])


@given(
    st.sampled_from(Adapter),
    st.fixed_dictionaries(
        {},
        optional={
            "summary": TEXTS,
            "severity": st.sampled_from([severity.value for severity in Severity]),
            "experiment": TEXTS,
            "variant": TEXTS,
            "incident": TEXTS,
            "resolved": st.booleans(),
            "link": TEXTS,
        },
    ),
)
def test_every_receivers_bounds_are_kept(adapter, data):
    told = message("a" * 128, **data)
    post = post_for(adapter, told, secrets=[SECRET], at=SENT_AT)
    body = json.loads(post.body)
    match adapter:
        case Adapter.PAGERDUTY:
            assert 1 <= len(body["payload"]["summary"]) <= 1_024
            assert 1 <= len(body["dedup_key"]) <= 255
        case Adapter.GITHUB:
            assert len(body["event_type"]) <= 100
            assert len(body["client_payload"]) <= 10
        case Adapter.SLACK:
            assert len(body["blocks"]) <= 50
            for block in body["blocks"]:
                assert len(block.get("text", {}).get("text", "")) <= 3_000
                for field in block.get("fields", []):
                    assert len(field["text"]) <= 2_000


def test_slack_shows_a_long_summary_as_far_as_it_takes_and_never_half_an_escape():
    def shown(summary: str) -> str:
        post = post_for(Adapter.SLACK, message(summary=summary), secrets=[], at=SENT_AT)
        return json.loads(post.body)["blocks"][0]["text"]["text"].split("\n", 1)[1]

    assert shown("a" * 1_000) == "a" * 1_000
    assert shown("&" * 1_000) == "&amp;" * 560


@given(TEXTS, TEXTS)
def test_another_experiment_or_variant_is_another_incident(experiment, variant):
    one = dedup_key(message(), Facts(experiment="e" + experiment, variant="v" + variant))
    other = dedup_key(message(), Facts(experiment="f" + experiment, variant="v" + variant))
    assert one != other
    assert len(one) <= 255
