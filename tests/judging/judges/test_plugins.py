"""The kind `plugin`: functions of others, and HTTP endpoints."""

import asyncio
import json
import threading
import time
from importlib.metadata import EntryPoint, EntryPoints

import msgspec
import pytest

from app.core.errors import InvalidInput
from app.judging.judges import limits, plugin_judge
from app.judging.judges.endpoint_client import EndpointClient
from app.judging.judges.labels import LabelSet
from app.judging.judges.model import Judged, Operation, PluginVersion, Reason
from app.judging.judges.service import compare, open_judge, usable
from tests.judging.judges.endpoints import ITEM, credentials, opened, plugin
from tests.support.model_server import answer, huge, model_server, refuse

pytestmark = pytest.mark.anyio

HERE = __name__
RELEASE = threading.Event()
CALLS: list[int] = []


def half(_):
    return 0.5


def by_length(item):
    return {"score": min(1.0, len(item.response) / 100), "reasons": "longer is better"}


def nothing(_):
    return None


def broken(_):
    raise RuntimeError("no such table")


def leaves(_):
    raise SystemExit


def not_a_number(_):
    return float("nan")


def too_much(_):
    return 1.5


def text(_):
    return "good"


def top_label(_):
    return {"label": 3}


def missing_label(_):
    return {"label": 4}


def hangs(_):
    CALLS.append(1)
    RELEASE.wait(20)
    return 1.0


async def asynchronous(_):
    await asyncio.sleep(0)
    return 0.25


async def blocks(_):
    """Block its own event loop, as careless async code does."""
    time.sleep(0.3)  # noqa: ASYNC251 - the point of the test
    return 0.25


async def cancels(_):
    raise asyncio.CancelledError


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """Pretend that a package declares the functions of this file."""
    names = [name for name, value in globals().items() if callable(value) and value.__module__ == HERE]
    points = EntryPoints(EntryPoint(name, f"{HERE}:{name}", plugin_judge.GROUP) for name in names)
    broken_import = EntryPoint("cannot_load", "no.such.module:judge", plugin_judge.GROUP)
    number = EntryPoint("number", f"{HERE}:HERE", plugin_judge.GROUP)
    everything = EntryPoints([*points, broken_import, number])
    monkeypatch.setattr(plugin_judge, "entry_points", lambda group: everything.select(group=group))
    yield
    RELEASE.set()


async def score(function, **fields):
    version = PluginVersion(name="mine", function=function, **fields)
    async with opened(version) as judge:
        judged = await judge.score(ITEM)
    return judged.score if isinstance(judged, Judged) else judged.reason


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("half", 0.5),
        ("by_length", pytest.approx(0.31)),
        ("asynchronous", 0.25),
        ("nothing", Reason.UNDECIDED),
        ("broken", Reason.PLUGIN_FAILED),
        ("leaves", Reason.PLUGIN_FAILED),
        ("cancels", Reason.PLUGIN_FAILED),
        ("not_a_number", Reason.ANSWER_UNREADABLE),
        ("too_much", Reason.ANSWER_UNREADABLE),
        ("text", Reason.ANSWER_UNREADABLE),
        ("top_label", Reason.LABEL_NOT_OFFERED),
    ],
)
async def test_a_function_gives_a_score_or_a_reason(function, expected):
    assert await score(function) == expected


async def test_a_function_may_give_a_label_of_its_version():
    assert await score("top_label", labels=LabelSet()) == 1
    assert await score("missing_label", labels=LabelSet()) is Reason.LABEL_NOT_OFFERED


async def test_a_function_that_hangs_is_unscored_and_uses_a_bounded_number_of_threads():
    RELEASE.clear()
    CALLS.clear()
    operation = Operation(timeout_s=0.2)
    async with opened(PluginVersion(name="mine", function="hangs", operation=operation)) as judge:
        judged = await judge.score_many([ITEM] * 30)
        assert {each.reason for each in judged} == {Reason.TIMEOUT}
        assert len(CALLS) == limits.PLUGIN_THREADS
        RELEASE.set()
        operation = Operation(timeout_s=5.0)
    async with opened(PluginVersion(name="mine", function="hangs", operation=operation)) as judge:
        assert (await judge.score(ITEM)).score == 1


async def test_an_async_function_that_blocks_does_not_block_the_worker():
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    assert await score("blocks") == 0.25
    ticking.cancel()
    assert ticks > 3


@pytest.mark.parametrize(
    ("function", "message"),
    [("halve", "did you mean half"), ("cannot_load", "cannot be loaded"), ("number", "is not a function")],
)
async def test_a_function_that_is_not_installed_is_refused_at_creation(function, message):
    with pytest.raises(InvalidInput, match=message):
        usable(PluginVersion(name="mine", function=function))


async def test_an_endpoint_gets_the_response_and_returns_a_score():
    async with model_server() as server:
        server.always = answer(200, b'{"score": 0.83, "reasons": "good"}')
        operation = Operation(credential="account")
        async with opened(plugin(server.url, operation=operation)) as judge:
            judged = await judge.score(ITEM)
    assert (judged.score, judged.reasons, len(judged.attempts)) == (0.83, "good", 1)
    sent = server.requests[0]
    assert sent.headers["authorization"].endswith("hunter2-is-the-secret")
    assert sent.json["metadata"] == ITEM.metadata
    assert sent.json["response"] == ITEM.response


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (answer(200, b'{"score": 3}'), Reason.ANSWER_UNREADABLE),
        (answer(200, b'{"score": NaN}'), Reason.ANSWER_UNREADABLE),
        (answer(200, b'{"scor": 1}'), Reason.ANSWER_UNREADABLE),
        (answer(200, b"{}"), Reason.ANSWER_UNREADABLE),
        (answer(200, b"1"), Reason.ANSWER_UNREADABLE),
        (answer(200, b'{"unscored": "no opinion", "score": 1}'), Reason.UNDECIDED),
        (huge(), Reason.ANSWER_TOO_LARGE),
        (refuse(401), Reason.AUTH),
        (answer(500), Reason.SERVER_ERROR),
    ],
)
async def test_an_endpoint_that_fails_is_unscored_with_its_reason(behaviour, reason):
    async with model_server() as server:
        server.always = behaviour
        async with opened(plugin(server.url)) as judge:
            assert (await judge.score(ITEM)).reason is reason


async def test_an_endpoint_is_tried_again():
    async with model_server() as server:
        server.behave(answer(500), answer(200, json.dumps({"score": 1}).encode()))
        async with opened(plugin(server.url)) as judge:
            assert [attempt.status for attempt in (await judge.score(ITEM)).attempts] == [500, 200]


async def test_other_kinds_do_not_compare():
    judge = open_judge(PluginVersion(name="mine", function="half"), credentials, EndpointClient())
    with pytest.raises(InvalidInput, match="only judges of the kinds llm and decision"):
        await compare(judge, ITEM, msgspec.structs.replace(ITEM))
