"""Reading, erasing and expiring stored responses."""

from datetime import date, timedelta

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.experiments.reward import Reward
from app.responses.expiry import believed_day
from app.responses.expiry_store import ExpiryStore
from app.responses.limits import EXPIRY_DOUBT_S
from app.responses.store import ResponseStore
from tests.ledger.support import create_experiment
from tests.responses.conftest import Product
from tests.support.responses import NOW, new_response, store_responses

pytestmark = pytest.mark.anyio

TODAY = NOW.date()


async def test_a_response_is_found_by_its_id(product: Product) -> None:
    await product.start("one")
    await product.start("two")
    for key in ("one", "two"):
        token = (await product.assign("u1", key))["assignment_id"]
        await product.respond({"assignment_id": token, "response": key, "response_id": "same"})
    await product.settled("one")
    answer = await product.client.get("/responses/same")
    assert answer.status_code == 409
    assert "one, two" in answer.json()["detail"]
    answer = await product.client.get("/responses/same", params={"experiment": "two"})
    assert (answer.json()["response"], answer.json()["experiment"]) == ("two", "two")
    assert (await product.client.get("/responses/other")).status_code == 404


async def test_responses_are_listed_newest_first_in_pages_and_by_filters(product: Product) -> None:
    await product.start()
    for number in range(5):
        token = (await product.assign(f"u{number}"))["assignment_id"]
        sent = {"response": f"answer {number}", "model": f"m{number % 2}"}
        await product.respond({"assignment_id": token} | sent)
    await product.settled()

    async def page(**params: object) -> list[str]:
        answer = await product.client.get("/experiments/exp/responses", params=params)
        assert answer.status_code == 200, answer.text
        pages.append(answer.json()["next"])
        return [response["response"] for response in answer.json()["responses"]]

    pages: list[int | None] = []
    assert await page(limit=3) == ["answer 4", "answer 3", "answer 2"]
    assert await page(limit=3, after=pages[-1]) == ["answer 1", "answer 0"]
    assert pages[-1] is None
    assert await page(model="m1") == ["answer 3", "answer 1"]
    assert await page(failed=True) == []
    assert await page(until="2020-01-01T00:00:00Z") == []
    assert len(await page(variant="control") + await page(variant="other")) == 5
    wrong = await product.client.get("/experiments/exp/responses", params={"variant": "nope"})
    assert wrong.status_code == 404
    wrong = await product.client.get("/experiments/exp/responses", params={"since": "2026-01-01T00:00:00"})
    assert wrong.status_code == 400


async def test_waiting_feedback_is_listed(product: Product) -> None:
    await product.start()
    await product.rate(response_id="later", signal="thumbs_up", experiment="exp")
    await product.settled()
    waiting = (await product.client.get("/feedback/waiting")).json()
    assert (waiting["waiting"], waiting["ambiguous"], waiting["refused"]) == (1, 0, 0)
    [signal] = waiting["signals"]
    assert (signal["response_id"], signal["experiment"], signal["state"]) == ("later", "exp", "waiting")


async def test_the_texts_of_a_unit_are_erased_also_those_on_their_way(
    product: Product, engine: AsyncEngine
) -> None:
    await product.start()
    for unit in ("me", "you"):
        token = (await product.assign(unit))["assignment_id"]
        await product.respond({"assignment_id": token, "response": f"about {unit}", "response_id": unit})
    await product.settled()
    answer = await product.client.delete("/responses", params={"unit": "me"})
    assert answer.json() == {"erased": 1}
    assert (await product.client.delete("/responses", params={"unit": "me"})).json() == {"erased": 0}
    stored, _ = await ResponseStore(engine).after(0, 10)
    assert [(each.response, each.erased) for each in stored] == [("", True), ("about you", False)]
    shown = (await product.client.get("/responses/me")).json()
    assert (shown["response"], shown["erased"]) == (None, True)
    token = (await product.assign("me"))["assignment_id"]
    await product.respond({"assignment_id": token, "response": "after the request", "response_id": "new"})
    await product.settled()
    assert (await product.client.get("/responses/new")).json()["response"] == "after the request"


async def test_redactors_run_before_anything_is_stored(product: Product, valkey: Redis) -> None:
    await product.start(responses={"redact": ["email", "card"]})
    token = (await product.assign("u1"))["assignment_id"]
    secret = "Write to jo@example.com, card 4111 1111 1111 1111."
    receipt = await product.respond(
        {"assignment_id": token, "response": secret, "prompt": secret, "metadata": {"jo@example.com": secret}}
    )
    assert receipt["redacted"] == 1
    entries = await valkey.xrange("wald:{responses}:events")
    assert all(b"jo@" not in fields[b"b"] and b"4111" not in fields[b"b"] for _, fields in entries)
    await product.settled()
    [shown] = (await product.client.get("/experiments/exp/responses")).json()["responses"]
    assert shown["response"] == shown["prompt"] == "Write to [email], card [card]."
    assert shown["metadata"] == {"[email]": "Write to [email], card [card]."}
    assert shown["redacted"] == ["email", "card"]


async def test_a_day_is_dropped_except_for_responses_that_are_still_needed(
    database_url: str, engine: AsyncEngine
) -> None:
    kept = create_experiment(database_url, "kept", Reward(horizon_s=90 * 86_400))
    short = create_experiment(database_url, "short", Reward())
    await store_responses(
        database_url,
        [
            new_response(1, experiment_id=short, at=NOW - timedelta(days=32), expires_on=TODAY),
            new_response(2, experiment_id=short, at=NOW - timedelta(days=32), expires_on=TODAY),
            new_response(3, experiment_id=kept, at=NOW - timedelta(days=32), expires_on=TODAY),
            new_response(4, experiment_id=short, at=NOW, expires_on=TODAY + timedelta(days=31)),
        ],
    )
    store = ResponseStore(engine)
    stored, _ = await store.after(0, 10)
    held = stored[1].response_key
    assert await store.hold([held], "judging") == {held}
    expiry = await ExpiryStore.open(database_url)
    assert await expiry.expire(TODAY - timedelta(days=1)) == 0
    assert await expiry.expire(TODAY) == 1
    left, _ = await store.after(0, 10)
    assert [each.response_id for each in left] == ["response-2", "response-3", "response-4"]
    assert await store.hold([stored[0].response_key], "judging") == set()
    await store.release([held], "judging")
    assert await expiry.expire(TODAY + timedelta(days=1)) == 1
    left, _ = await store.after(0, 10)
    assert [each.response_id for each in left] == ["response-3", "response-4"]
    await expiry.measure()
    await expiry.forget(TODAY + timedelta(days=200))
    await expiry.close()


def test_a_date_that_jumps_ahead_is_believed_only_after_a_while() -> None:
    today = date(2026, 12, 1)
    tomorrow, far = today + timedelta(days=1), date(2036, 1, 1)
    assert believed_day(None, today, steady_s=0) == today
    assert believed_day(today, tomorrow, steady_s=0) == tomorrow
    assert believed_day(today, far, steady_s=EXPIRY_DOUBT_S - 1) == today
    assert believed_day(today, far, steady_s=EXPIRY_DOUBT_S) == far
    assert believed_day(far, today, steady_s=0) == today
