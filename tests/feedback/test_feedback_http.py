"""`POST /feedback` on a real Valkey: what events and bodies are answered, and what reaches the stream."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx2
import msgspec
import pytest

from app.access.model import AccessSnapshot, ApiKey, KeyKind, KeyRing, Scope, digest
from app.assignment import assignment_id
from app.assignment.assignment_id import Signer
from app.assignment.snapshot import PreparedExperiment, Snapshot
from app.core.clock import SystemClock
from app.core.errors import Unavailable
from app.core.limits import FEEDBACK_BODY_BYTES_MAX
from app.core.stream import StreamAppender
from app.core.valkey import create_client, shard_key
from app.experiments.reward import Reward
from app.feedback import entry, limits
from app.feedback.commit import SignalsCommit
from app.feedback.entry import SignalsEntry
from app.feedback.routes import ROUTES
from app.feedback.service import FeedbackService
from tests.support.api import api, bearer
from tests.support.clocks import SettableClock
from tests.support.registry import experiment

pytestmark = pytest.mark.anyio

SERVER, BROWSER, READER = "a server's key", "a browser's key", "a reader's key"
SIGNER = Signer([(1, b"the signing key.")])
KEYRING = KeyRing(
    AccessSnapshot(
        1,
        (
            ApiKey(1, KeyKind.SERVER, digest(SERVER), frozenset({Scope.FEEDBACK})),
            ApiKey(2, KeyKind.CLIENT, digest(BROWSER), frozenset({Scope.FEEDBACK})),
            ApiKey(3, KeyKind.SERVER, digest(READER), frozenset({Scope.READ})),
        ),
    )
)
SNAPSHOT = Snapshot().changed(
    [
        PreparedExperiment(experiment("exp", id=1)),
        PreparedExperiment(
            experiment("sums", id=2, reward=Reward(signals={"coins": 2.0}, combine="sum", range=(0.0, 10.0)))
        ),
    ],
    KEYRING,
    SIGNER,
)


def token(*, experiment_id: int = 1, age_s: float = 1, number: int = 0, signer: Signer = SIGNER) -> str:
    return signer.sign(
        assignment_id.body(
            key_id=signer.key_id,
            flags=0,
            variant=0,
            experiment_id=experiment_id,
            epoch=1,
            policy_version=1,
            id=assignment_id.uuid7(SystemClock().now_ms() - int(age_s * 1_000), number),
            propensity=0.5,
            unit_hash=number,
        )
    )


def event(**fields: Any) -> dict[str, Any]:
    return {"assignment_id": token(), "signal": "thumbs_up"} | fields


def receipt(**counts: int) -> dict[str, Any]:
    """An answer without refusals and warnings; what is not said is 0."""
    names = ("accepted", "counted", "waiting", "unknown_signal", "late", "early", "warned")
    return dict.fromkeys(names, 0) | {"rejected": [], "warnings": []} | counts


class Feedback:
    """A client, and what it has brought into the streams."""

    def __init__(self, client: httpx2.AsyncClient, valkey_url: str) -> None:
        self._client = client
        self._valkey_url = valkey_url

    async def post(
        self, body: Any, media_type: str | None = "application/json", key: str = SERVER
    ) -> httpx2.Response:
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        headers = bearer(key) | ({} if media_type is None else {"Content-Type": media_type})
        return await self._client.post("/feedback", content=raw, headers=headers)

    async def stored(self) -> list[SignalsEntry]:
        async with create_client(self._valkey_url) as valkey:
            return [
                entry.decode(fields[b"b"])
                for shard in range(2)
                for _, fields in await valkey.xrange(shard_key(shard, "events"))
            ]


@pytest.fixture
async def feedback(valkey_url: str) -> AsyncIterator[Feedback]:
    appender = StreamAppender(valkey_url, deadline_s=5)
    await appender.start()
    commit = SignalsCommit([appender], shards=2)
    service = FeedbackService(SimpleNamespace(snapshot=SNAPSHOT), commit, SystemClock())
    async with api(ROUTES, {"feedback": service}, KEYRING) as client:
        yield Feedback(client, valkey_url)
    await appender.stop()


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("application/json", msgspec.json.encode(event())),
        ("text/plain;charset=UTF-8", msgspec.json.encode(event())),
        (None, msgspec.json.encode([event()])),
        (
            "application/json; charset=utf-8",
            b'\n[\n {"assignment_id": "%s",\n  "signal": "thumbs_up"}]' % token().encode(),
        ),
        ("application/x-ndjson", msgspec.json.encode(event()) + b"\n\n"),
        ("application/msgpack", msgspec.msgpack.encode(event())),
        ("application/msgpack", msgspec.msgpack.encode([event()])),
    ],
)
async def test_every_encoding_is_understood(feedback: Feedback, media_type: str | None, body: bytes) -> None:
    answer = await feedback.post(body, media_type)
    assert (answer.status_code, answer.json()) == (202, receipt(accepted=1, counted=1))
    (stored,) = await feedback.stored()
    assert stored.signals == ["thumbs_up"]


async def test_lines_of_objects_are_recognised_whatever_they_are_called(feedback: Feedback) -> None:
    body = b"\r\n".join(msgspec.json.encode(one) for one in [event(), {"signal": 3}, event()])
    answer = await feedback.post(body)
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 2
    assert [one["index"] for one in answer.json()["rejected"]] == [1]


STRANGER = Signer([(1, b"somebody else's."), (9, b"another, unknown")])
WRONG = {
    "malformed id": (lambda: event(assignment_id="short"), 400, "assignment_id"),
    "not base64": (lambda: event(assignment_id="*" * 80), 400, "assignment_id"),
    "forged": (lambda: event(assignment_id=token(signer=STRANGER)), 422, "assignment_id"),
    "foreign key": (
        lambda: event(assignment_id=token(signer=Signer([(9, bytes(16))]))),
        422,
        "assignment_id",
    ),
    "unknown experiment": (lambda: event(assignment_id=token(experiment_id=77)), 404, "experiment"),
    "expired": (
        lambda: event(assignment_id=token(age_s=3_601 + limits.ASSIGNMENT_ID_GRACE_S)),
        410,
        "assignment_id",
    ),
    "from the future": (lambda: event(assignment_id=token(age_s=-90_000)), 422, "assignment_id"),
    "no address": (lambda: {"signal": "thumbs_up"}, 400, "assignment_id"),
    "two addresses": (lambda: event(experiment="exp", unit="u"), 400, "assignment_id"),
    "half an address": (lambda: {"signal": "thumbs_up", "unit": "u"}, 400, "assignment_id"),
    "unknown key": (lambda: {"signal": "x", "experiment": "none", "unit": "u"}, 404, "experiment"),
    "unit with NUL": (lambda: {"signal": "x", "experiment": "exp", "unit": "a\0b"}, 400, "unit"),
    "empty unit": (lambda: {"signal": "x", "experiment": "exp", "unit": ""}, 400, "unit"),
    "signal with space": (lambda: event(signal="thumbs up"), 400, "signal"),
    "signal with line break": (lambda: event(signal="thumbs_up\n"), 400, "signal"),
    "no signal": (lambda: {"assignment_id": token()}, 400, "signal"),
    "signal of a judge": (lambda: event(signal="judge.helpful", source="automated"), 403, "signal"),
    "signal of a judge by unit": (
        lambda: {"signal": "judge.helpful", "experiment": "exp", "unit": "u"},
        403,
        "signal",
    ),
    "value above range": (lambda: event(value=1.01), 400, "value"),
    "huge value": (lambda: event(value=1e308), 400, "value"),
    "huge value outside the catalogue": (lambda: event(signal="latency", value=-1e308), 400, "value"),
    "bool as number": (lambda: event(value=True), 400, "value"),
    "text as number": (lambda: event(value="1"), 400, "value"),
    "unknown source": (lambda: event(source="oracle"), 400, "source"),
    "unknown field": (lambda: event(variant="v1"), 400, "variant"),
    "time in milliseconds": (lambda: event(at=1_790_000_000_000), 400, "at"),
    "time long ago": (lambda: event(at="2001-01-01T00:00:00Z"), 400, "at"),
    "time without zone": (lambda: event(at="2026-01-01T00:00:00"), 400, "at"),
    "id too long": (lambda: event(id="x" * 256), 400, "id"),
    "id with NUL": (lambda: event(id="\0"), 400, "id"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_each_wrong_event_has_its_own_clear_answer(feedback: Feedback, case: str) -> None:
    make, status, field = WRONG[case]
    alone = await feedback.post(make())
    assert alone.status_code == status
    assert alone.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in alone.json()["errors"]] == [field]
    assert await feedback.stored() == []

    among_others = await feedback.post([event(), make(), event()])
    assert among_others.status_code == 202
    assert among_others.json()["accepted"] == 2
    (rejected,) = among_others.json()["rejected"]
    assert rejected["index"] == 1
    assert rejected["error"]["field"] == field
    assert alone.json()["type"] == f"/problems/{rejected['error']['kind']}"
    assert sum(stored.n for stored in await feedback.stored()) == 2

    only_wrong = await feedback.post([make(), make()])
    assert only_wrong.status_code == 422
    assert only_wrong.json()["accepted"] == 0
    assert len(only_wrong.json()["rejected"]) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"[]",
        b"null",
        b"3",
        b"[" * 5_000 + b"]" * 5_000,
        b'{"signal":' * 5_000,
        b'[{"signal": "a\xff"}]',
        b'\xef\xbb\xbf[{"signal": "a"}]',
        b'[{"signal": "a"',
        b'[{"signal": "a", "value": NaN}]',
        b'[{"signal": "a", "value": Infinity}]',
        b'[{"signal": "a", "value": 1e400}]',
        b'[{"signal": "\\ud800"}]',
        b'{"signal": "\\u0000"}',
        b"[1, 2",
        bytes(1_000),
    ],
    ids=lambda body: repr(body[:24]),
)
async def test_hostile_bodies_are_refused_and_nothing_is_stored(feedback: Feedback, body: bytes) -> None:
    for media_type in ("application/json", "application/x-ndjson", "application/msgpack"):
        answer = await feedback.post(body, media_type)
        assert 400 <= answer.status_code < 500
        assert "accepted" not in answer.json() or answer.json()["accepted"] == 0
    assert await feedback.stored() == []


async def test_messagepack_cannot_smuggle_in_what_json_cannot_say(feedback: Feedback) -> None:
    for value in (float("nan"), float("inf"), -float("inf")):
        answer = await feedback.post(msgspec.msgpack.encode([event(value=value)]), "application/msgpack")
        assert answer.status_code == 422
    assert await feedback.stored() == []


async def test_sizes_are_bounded(feedback: Feedback) -> None:
    too_long = await feedback.post(b" " * (FEEDBACK_BODY_BYTES_MAX + 1))
    too_many = await feedback.post(b"[" + b"{}," * limits.FEEDBACK_BATCH_MAX + b"{}]")
    assert (too_long.status_code, too_many.status_code) == (413, 413)
    assert (await feedback.post(b"a=1", "application/x-www-form-urlencoded")).status_code == 415


async def test_a_large_request_is_cut_into_several_entries(feedback: Feedback) -> None:
    one = token()
    answer = await feedback.post([{"assignment_id": one, "signal": "thumbs_up"}] * 2_500)
    assert answer.json() == receipt(accepted=2_500, counted=2_500)
    assert sorted(stored.n for stored in await feedback.stored()) == [500, 1_000, 1_000]


async def test_small_requests_at_once_share_entries(feedback: Feedback) -> None:
    answers = await asyncio.gather(*(feedback.post(event(assignment_id=token(number=n))) for n in range(50)))
    assert {answer.status_code for answer in answers} == {202}
    stored = await feedback.stored()
    assert sum(one.n for one in stored) == 50
    assert len(stored) < 50


async def test_the_catalogue_gives_values_and_the_order_gives_times(feedback: Feedback) -> None:
    before_us = SystemClock().now_us()
    ahead_s = (before_us + 60_000_000) / 1e6
    answer = await feedback.post(
        [
            event(signal="thumbs_down"),
            event(signal="copied"),
            event(value=0.25, at=before_us / 1e6 - 5, source="human", id="one"),
            event(value=1, at=ahead_s),
            {"experiment": "sums", "unit": "u-1", "signal": "coins"},
        ]
    )
    counts = {"counted": 3, "unknown_signal": 1, "waiting": 1, "warned": 1}
    assert answer.json() | {"warnings": []} == receipt(accepted=5, **counts)
    (stored,) = await feedback.stored()
    assert memoryview(stored.values).cast("d").tolist() == [0.0, 1.0, 0.25, 1.0]
    first, second, past, clipped = memoryview(stored.at_us).cast("q").tolist()
    assert before_us <= first < second < clipped < ahead_s * 1e6
    assert past == pytest.approx(before_us - 5_000_000, abs=1)
    assert (stored.ids, list(stored.sources)) == ([None, None, "one", None], [1, 1, 3, 1])
    assert (stored.units[0].experiment_id, stored.units[0].value) == (2, 2.0)


async def test_an_id_of_an_hour_ahead_is_of_a_wrong_clock_and_is_accepted(feedback: Feedback) -> None:
    """Ids are signed: the server that gave this one was ahead, or we were set back since."""
    answer = await feedback.post(event(assignment_id=token(age_s=-3_600)))
    assert answer.status_code == 202


async def test_times_of_events_follow_a_clock_that_was_set_back(valkey_url: str) -> None:
    clock = SettableClock(SystemClock().now())
    appender = StreamAppender(valkey_url, deadline_s=5)
    await appender.start()
    service = FeedbackService(SimpleNamespace(snapshot=SNAPSHOT), SignalsCommit([appender], shards=2), clock)
    async with api(ROUTES, {"feedback": service}, KEYRING) as client:
        feedback = Feedback(client, valkey_url)
        for moved_s in (0, 3_600, -3_600, 0):
            clock.forward(moved_s)
            before_us = clock.now_us()
            assert (await feedback.post([event(), event()])).status_code == 202
            stored = await feedback.stored()
            newest = [memoryview(one.at_us).cast("q").tolist() for one in stored]
            assert any(0 <= times[0] - before_us < times[1] - before_us <= 10 for times in newest)
    await appender.stop()


async def test_one_id_says_one_thing(feedback: Feedback) -> None:
    one, other = token(number=1), token(number=2)
    answer = await feedback.post(
        [
            event(assignment_id=one, id="a", value=1),
            event(assignment_id=one, id="a", value=1),
            event(assignment_id=one, id="a", value=0),
            event(assignment_id=other, id="a", value=0),
        ]
    )
    assert answer.json()["accepted"] == 3
    assert [(each["index"], each["error"]["kind"]) for each in answer.json()["rejected"]] == [(2, "conflict")]


async def test_a_browser_names_assignments_by_their_id_only(feedback: Feedback) -> None:
    by_unit = {"experiment": "exp", "unit": "u", "signal": "thumbs_up"}
    assert (await feedback.post(event(), key=BROWSER)).status_code == 202
    assert (await feedback.post(by_unit, key=BROWSER)).status_code == 403
    assert (await feedback.post(by_unit)).status_code == 202
    assert (await feedback.post(event(), key=READER)).status_code == 403


async def test_without_valkey_nothing_is_acknowledged() -> None:
    appender = StreamAppender("unix:///nowhere/valkey.sock", deadline_s=1)
    await appender.start()
    service = FeedbackService(
        SimpleNamespace(snapshot=SNAPSHOT), SignalsCommit([appender], shards=2), SystemClock()
    )
    async with api(ROUTES, {"feedback": service}, KEYRING) as client:
        answer = await client.post("/feedback", json=[event()], headers=bearer(SERVER))
    await appender.stop()
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_failure_nobody_expects_reaches_those_who_wait() -> None:
    class Broken:
        async def append(self, *_: object) -> None:
            raise Unavailable("this one only")

    commit = SignalsCommit([Broken()], shards=1)  # type: ignore[list-item]
    signals = SignalsEntry(0, bytes(48), ["s"], b"\0", bytes(8), bytes(8), [None])
    outcomes = await asyncio.gather(*(commit.append(signals) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
    await commit.drain()
