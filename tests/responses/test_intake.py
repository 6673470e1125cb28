"""`POST /responses`, from the request to the tables."""

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.responses.store import ResponseStore
from tests.responses.conftest import Product

pytestmark = pytest.mark.anyio

STORED = "SELECT count(*) FROM response_keys WHERE seq IS NOT NULL"


async def test_a_response_is_stored_with_its_assignment(product: Product, engine: AsyncEngine) -> None:
    await product.start()
    assigned = await product.assign("u1")
    receipt = await product.respond(
        {"assignment_id": assigned["assignment_id"], "response": "Hello", "prompt": "Hi", "model": "m-1"}
    )
    assert receipt == {"accepted": 1, "rejected": [], "redacted": 0}
    await product.until(STORED, 1)
    [stored], _ = await ResponseStore(engine).after(0, 10)
    assert (stored.prompt, stored.response, stored.model) == ("Hi", "Hello", "m-1")
    assert ["control", "other"][stored.variant] == assigned["variant"]


async def test_a_response_by_unit_gets_the_assignment_that_arrives_after_it(
    product: Product, engine: AsyncEngine
) -> None:
    await product.start()
    await product.respond({"experiment": "exp", "unit": "u1", "response": "Hello", "response_id": "r1"})
    await product.until("SELECT count(*) FROM response_keys WHERE seq IS NULL", 1)
    assigned = await product.assign("u1")
    await product.until(STORED, 1)
    [stored], _ = await ResponseStore(engine).after(0, 10)
    assert ["control", "other"][stored.variant] == assigned["variant"]
    assert stored.unit == "u1"


async def test_all_encodings_say_the_same(product: Product) -> None:
    await product.start()
    token = (await product.assign("u1"))["assignment_id"]
    response = {"assignment_id": token, "response": "Hello", "response_id": "r1"}
    bodies = {
        "application/json": msgspec.json.encode([response]),
        "application/x-ndjson": msgspec.json.encode(response) + b"\n" + msgspec.json.encode(response),
        "application/msgpack": msgspec.msgpack.encode([response]),
    }
    for media_type, body in bodies.items():
        answer = await product.client.post("/responses", content=body, headers={"content-type": media_type})
        assert answer.status_code == 202, answer.text
    await product.settled()
    assert product.rows(STORED) == [(1,)]
    answer = await product.client.post("/responses", content=b"x", headers={"content-type": "text/csv"})
    assert answer.status_code == 415


WRONG = [
    ({"response": None}, 400, "response"),
    ({"assignment_id": "x"}, 400, "assignment_id"),
    ({"assignment_id": None}, 400, "assignment_id"),
    ({"experiment": "nowhere", "unit": "u", "assignment_id": None}, 404, "experiment"),
    ({"response": "x" * 1_048_577}, 413, "response"),
    ({"prompt": "ü" * 600_000}, 413, "prompt"),
    ({"latency_ms": -1}, 400, "latency_ms"),
    ({"tokens_in": 10**12}, 400, "tokens_in"),
    ({"metadata": {"a": "x" * 20_000}}, 413, "metadata"),
    ({"metadata": {"a": "\0"}}, 400, "metadata.a"),
    ({"response_id": ""}, 400, "response_id"),
    ({"model": "m\0"}, 400, "model"),
    ({"at": 5.0}, 400, "at"),
    ({"respnse": "x"}, 400, "respnse"),
    ({"tokens_out": "many"}, 400, "tokens_out"),
]


async def test_a_wrong_field_is_named_alone_and_in_a_list(product: Product) -> None:
    await product.start()
    token = (await product.assign("u1"))["assignment_id"]
    right = {"assignment_id": token, "response": "right"}
    for wrong, status, field in WRONG:
        merged = {"assignment_id": token, "response": "Hello"} | wrong
        sent = {name: value for name, value in merged.items() if value is not None}
        answer = await product.client.post("/responses", json=sent)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (status, field), answer.text
        answer = await product.client.post("/responses", json=[sent, right])
        assert answer.status_code == 202, answer.text
        [rejected] = answer.json()["rejected"]
        assert (rejected["index"], rejected["error"]["field"]) == (0, field)
    await product.settled()
    assert product.rows(STORED) == [(1,)]
