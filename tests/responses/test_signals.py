"""Signals that responses give by themselves, and feedback that names a response."""

import pytest

from app.ledger.units.measures import CellTotals
from app.responses.signals import reason_signal
from tests.responses.conftest import Product

pytestmark = pytest.mark.anyio

METRICS = [
    {
        "key": "latency",
        "role": "guardrail",
        "direction": "lower",
        "margin": {"size": 100},
        "measure": {"kind": "mean", "signal": "latency_ms", "range": [0, 10000], "per_unit": "sum"},
    },
]
TOTALS = "SELECT coalesce(sum(rewards), 0)::int, coalesce(sum(reward_sum), 0)::bigint FROM totals"
WAITING = "SELECT count(*) FROM response_feedback WHERE state = 'waiting'"


def latency(product: Product) -> tuple[int, float]:
    """Return the number of units with a latency, and the sum of their values."""
    bodies = [CellTotals.from_bytes(body) for (body,) in product.rows("SELECT body FROM metric_totals")]
    sums = [cell.metrics[1] for cell in bodies]
    return sum(each[0] for each in sums), sum(each[1] for each in sums) / 1e9


def signals(product: Product) -> dict[str, float]:
    return dict(product.rows("SELECT signal, value FROM signals WHERE source = 2 ORDER BY signal"))


async def test_numbers_of_a_response_become_signals(product: Product) -> None:
    await product.start()
    token = (await product.assign("u1"))["assignment_id"]
    numbers = {"latency_ms": 812.5, "tokens_in": 10, "tokens_out": 20, "cost_usd": 0.01}
    sent = {"assignment_id": token, "response": "x", "finish_reason": "max_tokens"} | numbers
    await product.respond(sent)
    await product.respond(sent)
    await product.settled()
    assert signals(product) == numbers | {"error": 0.0, "finish_reason.length": 1.0}


async def test_a_failed_response_gives_an_error(product: Product) -> None:
    await product.start()
    token = (await product.assign("u1"))["assignment_id"]
    await product.respond({"assignment_id": token, "error": "timeout"})
    await product.settled()
    assert signals(product) == {"error": 1.0}


@pytest.mark.parametrize("first", ["response", "signal"])
async def test_a_signal_that_the_client_sends_too_counts_once(product: Product, first: str) -> None:
    await product.start(metrics=METRICS)
    token = (await product.assign("u1"))["assignment_id"]

    async def respond() -> None:
        await product.respond({"assignment_id": token, "response": "x", "latency_ms": 800})
        await product.settled()

    async def send() -> None:
        await product.rate(assignment_id=token, signal="latency_ms", value=700, id="mine")
        await product.settled()

    for step in (respond, send) if first == "response" else (send, respond):
        await step()
    sums = product.rows(
        "SELECT signal, source, value FROM signals WHERE signal = 'latency_ms' ORDER BY value"
    )
    assert [row[2] for row in sums] == [700, 800]
    assert latency(product) == (1, 700.0)


async def test_of_several_responses_of_an_assignment_the_newest_counts(product: Product) -> None:
    await product.start(metrics=METRICS)
    token = (await product.assign("u1"))["assignment_id"]
    for number in range(3):
        sent = {"response": "x", "response_id": f"r{number}", "latency_ms": 100 + number}
        await product.respond({"assignment_id": token} | sent)
    await product.settled()
    assert latency(product) == (1, 102.0)


async def test_feedback_by_response_id_counts_for_its_assignment(product: Product) -> None:
    await product.start()
    token = (await product.assign("u1"))["assignment_id"]
    await product.respond({"assignment_id": token, "response": "x", "response_id": "chatcmpl-1"})
    receipt = await product.rate(response_id="chatcmpl-1", signal="thumbs_up")
    assert (receipt["accepted"], receipt["waiting"]) == (1, 1)
    await product.rate(response_id="chatcmpl-1", signal="thumbs_up")
    await product.settled()
    assert product.rows(TOTALS) == [(1, 10**9)]
    assert product.rows(WAITING) == [(0,)]


async def test_feedback_waits_for_its_response_and_then_counts(product: Product) -> None:
    await product.start()
    token = (await product.assign("u1"))["assignment_id"]
    await product.rate(response_id="later", signal="thumbs_down")
    await product.rate(response_id="later", signal="thumbs_down", value=1.0, id="a")
    await product.rate(response_id="never", signal="thumbs_up", experiment="exp")
    await product.settled()
    assert product.rows(WAITING) == [(3,)]
    assert product.rows(TOTALS) == [(0, 0)]
    await product.respond({"assignment_id": token, "response": "x", "response_id": "later"})
    await product.settled()
    assert product.rows(WAITING) == [(1,)]
    assert product.rows(TOTALS)[0][0] == 1


async def test_feedback_waits_for_the_assignment_of_a_response_by_unit(product: Product) -> None:
    await product.start()
    await product.respond({"experiment": "exp", "unit": "u1", "response": "x", "response_id": "r"})
    await product.rate(response_id="r", signal="thumbs_up")
    await product.settled()
    assert product.rows(WAITING) == [(1,)]
    await product.assign("u1")
    await product.until(WAITING, 0)
    await product.settled()
    assert product.rows(TOTALS) == [(1, 10**9)]


async def test_an_id_in_two_experiments_needs_the_experiment(product: Product) -> None:
    await product.start("one")
    await product.start("two")
    for key in ("one", "two"):
        token = (await product.assign("u1", key))["assignment_id"]
        await product.respond({"assignment_id": token, "response": "x", "response_id": "same"})
    await product.settled("one")
    await product.rate(response_id="same", signal="thumbs_up")
    await product.rate(response_id="same", signal="thumbs_up", experiment="two")
    await product.settled("one")
    assert product.rows("SELECT state FROM response_feedback") == [("ambiguous",)]
    counted = "SELECT e.key FROM totals JOIN experiments AS e ON e.id = experiment_id WHERE rewards > 0"
    assert product.rows(counted) == [("two",)]


async def test_an_address_must_be_one_of_three(product: Product) -> None:
    await product.start()
    token = (await product.assign("u1"))["assignment_id"]
    wrong = [
        ({"response_id": "r", "assignment_id": token}, 400),
        ({"response_id": "r", "experiment": "exp", "unit": "u"}, 400),
        ({"response_id": ""}, 400),
        ({"response_id": "r", "experiment": "nowhere"}, 404),
        ({"response_id": "r", "value": 1e10}, 400),
    ]
    for address, status in wrong:
        answer = await product.client.post("/feedback", json={"signal": "thumbs_up"} | address)
        assert answer.status_code == status, answer.text


async def test_a_value_out_of_range_is_kept_with_the_reason(product: Product) -> None:
    await product.start()
    token = (await product.assign("u1"))["assignment_id"]
    await product.respond({"assignment_id": token, "response": "x", "response_id": "r"})
    await product.rate(response_id="r", signal="thumbs_up", value=7)
    await product.settled()
    [(state, reason)] = product.rows("SELECT state, reason FROM response_feedback")
    assert state == "refused"
    assert "value: must be within the range" in reason


@pytest.mark.parametrize(
    ("given", "signal"),
    [("STOP", "stop"), ("end_turn", "stop"), ("tool_use", "tool_calls"), ("a b/ü", "a_b__"), ("", "")],
)
async def test_finish_reasons_have_one_name_for_all_providers(given: str, signal: str) -> None:
    assert reason_signal(given) == f"finish_reason.{signal}"
