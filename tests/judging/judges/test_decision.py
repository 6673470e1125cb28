"""The kind `decision` against a misbehaving server and against a real one."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.judging.judges.decisions import Answered, answered, expected_place, url
from app.judging.judges.failures import Failure
from app.judging.judges.labels import LabelSet
from app.judging.judges.model import Judged, Reason
from app.judging.judges.service import compare, preflight
from tests.judging.judges.endpoints import ITEM, OPERATION, decision, opened
from tests.support.model_server import (
    answer,
    drip,
    gzip_bomb,
    huge,
    model_server,
    refuse,
    reset,
    silence,
)

pytestmark = pytest.mark.anyio

THREE = LabelSet(meanings=("wrong", "partly right", "right"))


def says(**verdict):
    return answer(200, json.dumps({"model": "m", "answers": {"verdict": verdict}}).encode())


async def test_a_noul_keeps_the_probability_itself():
    async with model_server() as server:
        server.probability = lambda state: 0.83 if "Paris" in state["response"] else 0.1
        async with opened(decision(server.url)) as judge:
            judged = await judge.score(ITEM)
    assert (judged.score, judged.probability, judged.label) == (0.83, 0.83, 1)
    sent = server.requests[0].json
    assert sent["state"] == {"prompt": ITEM.prompt, "response": ITEM.response}
    assert sent["questions"] == {
        "verdict": {"type": "noul", "instructions": "The response answers the prompt."}
    }
    assert judged.attempts[0].cost_usd == pytest.approx(40e-6)


@pytest.mark.parametrize("question", ["score", "choice"])
async def test_levels_and_options_give_the_expected_place(question):
    async with model_server() as server:
        server.probability = lambda _: 0.6
        async with opened(decision(server.url, question=question, labels=THREE)) as judge:
            judged = await judge.score(ITEM)
    assert judged.score == pytest.approx(0.2 * 0.5 + 0.6)
    assert (judged.label, judged.probability) == (3, pytest.approx(0.6))


def test_the_address_is_the_same_with_and_without_v1():
    assert url("http://h") == url("http://h/v1/") == "http://h/v1/systemone"


@pytest.mark.parametrize(
    "verdict",
    [
        {"type": "score", "score": 1.0},
        {"type": "score", "probabilities": {"0": 0.5, "1": 0.5}},
        {"type": "score", "probabilities": {"0": 0.3, "1": 0.3, "2": 0.3}},
        {"type": "score", "probabilities": {"0": 0.5, "1": 0.5, "2": 0.5}},
        {"type": "score", "probabilities": {"0": -0.5, "1": 0.5, "2": 1.0}},
        {"type": "score", "probabilities": {"0": 0.5, "1": 0.5, "3": 0.0}},
        {"type": "score", "probabilities": {"0": 1.0, "1": 0.0, "2": 0.0}, "score": 2.0},
        {"type": "score", "probabilities": {}},
    ],
)
async def test_probabilities_that_contradict_themselves_are_never_a_score(verdict):
    async with model_server() as server:
        server.always = says(**verdict)
        async with opened(decision(server.url, question="score", labels=THREE)) as judge:
            unscored = await judge.score(ITEM)
    assert unscored.reason is Reason.PROBABILITIES_INVALID, unscored


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (says(type="noul", noul=1.2), Reason.PROBABILITIES_INVALID),
        (says(type="noul"), Reason.PROBABILITIES_INVALID),
        (says(type="choice", noul=0.5), Reason.ANSWER_UNREADABLE),
        (answer(200, b'{"answers": {"verdict": {"type": "noul", "noul": NaN}}}'), Reason.ANSWER_UNREADABLE),
        (answer(200, b'{"answers": {"verdict": {"type": "noul", "noul": "1"}}}'), Reason.ANSWER_UNREADABLE),
        (answer(200, b'{"answers": {"other": {"type": "noul", "noul": 1}}}'), Reason.ANSWER_UNREADABLE),
        (answer(200, b'{"answers": [1]}'), Reason.ANSWER_UNREADABLE),
        (answer(200, b"<html>", kind="text/html"), Reason.ANSWER_UNREADABLE),
        (huge(), Reason.ANSWER_TOO_LARGE),
        (gzip_bomb(), Reason.ANSWER_TOO_LARGE),
        (refuse(401), Reason.AUTH),
        (refuse(404), Reason.MODEL_GONE),
        (refuse(413), Reason.TOO_LONG),
        (answer(422, b'{"error": "unknown question type"}'), Reason.REQUEST_REFUSED),
        (answer(529), Reason.SERVER_ERROR),
        (reset, Reason.CONNECTION),
        (silence, Reason.TIMEOUT),
        (drip, Reason.TIMEOUT),
    ],
)
async def test_a_failure_is_unscored_with_its_reason(behaviour, reason):
    operation = msgspec.structs.replace(OPERATION, timeout_s=0.3, attempts_max=2)
    async with model_server() as server:
        server.always = behaviour
        async with opened(decision(server.url, operation=operation)) as judge:
            unscored = await judge.score(ITEM)
    assert unscored.reason is reason, unscored
    assert len(unscored.attempts) == (2 if reason.transient else 1)


async def test_a_response_that_is_too_long_is_not_sent():
    async with model_server() as server, opened(decision(server.url, characters_max=10)) as judge:
        assert (await judge.score(ITEM)).reason is Reason.TOO_LONG
    assert server.requests == []


async def test_a_wait_in_milliseconds_is_kept():
    async with model_server() as server:
        server.behave(answer(429, headers="retry-after-ms: 1\r\n"))
        async with opened(decision(server.url)) as judge:
            assert isinstance(await judge.score(ITEM), Judged)
    assert len(server.requests) == 2


async def test_a_pair_is_asked_in_both_orders():
    """The server always prefers the first response: position bias, and so a tie."""
    async with model_server() as server:

        async def first(running, request, writer):
            shares = {"first": 0.7, "second": 0.2, "tie": 0.1}
            verdict = says(type="choice", choice="first", probabilities=shares)
            await verdict(running, request, writer)

        server.always = first
        async with opened(decision(server.url)) as judge:
            preference = await compare(judge, ITEM, ITEM)
    assert (preference.score, preference.consistent, preference.first_preferred) == (0.5, False, 2)
    assert preference.probability == pytest.approx(0.5)
    assert {frozenset(request.json["state"]) for request in server.requests} == {
        frozenset({"prompt", "first", "second"})
    }


@given(
    st.dictionaries(st.sampled_from(["0", "1", "2", "3", "x"]), st.floats(-0.5, 1.5) | st.integers(0, 1)),
    st.none() | st.floats(-1, 3),
)
def test_any_distribution_gives_a_valid_score_or_a_failure(probabilities, score):
    verdict = {"type": "score", "probabilities": probabilities, "score": score}
    body = json.dumps({"answers": {"verdict": verdict}}).encode()
    outcome = answered(body, "score", ("0", "1", "2"))
    assert isinstance(outcome, Answered | Failure)
    if isinstance(outcome, Answered):
        assert sum(outcome.probabilities) == pytest.approx(1)
        assert 0 <= expected_place(outcome.probabilities) <= 1


@pytest.mark.parametrize("question", ["noul", "score", "choice"])
async def test_a_real_decision_model_is_read(sparrow, question):
    labels = None if question == "noul" else THREE
    async with opened(decision(sparrow, question=question, labels=labels)) as judge:
        result = await preflight(judge)
        preference = await compare(judge, ITEM, msgspec.structs.replace(ITEM, response="No idea."))
    assert isinstance(result.judgement, Judged), result
    assert 0 <= result.judgement.score <= 1
    assert preference.score in {0, 0.5, 1}
