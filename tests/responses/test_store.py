"""Contract of the store of responses with its readers."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.responses.model import key_of
from app.responses.store import ResponseStore, hold
from tests.support.responses import NOW, new_response, store_responses

pytestmark = pytest.mark.anyio


async def test_a_response_comes_back_as_it_was_sent(database_url: str, engine: AsyncEngine) -> None:
    sent = new_response(
        1,
        variant=1,
        response="für Ünïcode 🙂",
        metadata={"a": [1, None]},
        model="m",
        tokens_in=3,
        cost_usd=0.25,
    )
    await store_responses(database_url, [sent])
    [stored] = await ResponseStore(engine).read([sent.response_key])
    assert (stored.response, stored.metadata, stored.model) == ("für Ünïcode 🙂", {"a": [1, None]}, "m")
    assert (stored.variant, stored.epoch, stored.tokens_in, stored.cost_usd) == (1, 1, 3, 0.25)
    assert (stored.at, stored.erased, stored.error) == (NOW, False, None)


async def test_a_repeated_response_is_the_same_row(database_url: str, engine: AsyncEngine) -> None:
    first = new_response(1, response="first")
    assert await store_responses(database_url, [first, first]) == {first.response_key}
    later = new_response(1, response="second", at=NOW + timedelta(days=3))
    assert await store_responses(database_url, [later]) == set()
    [stored] = await ResponseStore(engine).read([first.response_key])
    assert stored.response == "first"


async def test_the_same_id_in_two_experiments_names_two_responses() -> None:
    assert key_of(1, "x") != key_of(2, "x")


async def test_a_reader_sees_each_response_once_in_order(database_url: str, engine: AsyncEngine) -> None:
    store = ResponseStore(engine)
    await store_responses(
        database_url, [new_response(number, experiment_id=number % 2) for number in range(5)]
    )
    first, cursor = await store.after(0, 3)
    await store_responses(database_url, [new_response(9, at=NOW + timedelta(days=1))])
    second, end = await store.after(cursor, 100)
    assert [stored.response_id for stored in first + second] == [f"response-{n}" for n in (0, 1, 2, 3, 4, 9)]
    assert await store.after(end, 100) == ([], end)
    odd, _ = await store.after(0, 100, experiment_id=1)
    assert [stored.experiment_id for stored in odd] == [1, 1, 1]


async def test_a_hold_names_the_responses_that_exist(database_url: str, engine: AsyncEngine) -> None:
    store = ResponseStore(engine)
    [key] = await store_responses(database_url, [new_response(1)])
    missing = key_of(1, "never came")
    assert await store.hold([key, missing], "judging") == {key}
    assert await store.hold([key], "judging") == {key}
    assert await store.hold([key], "reviews") == {key}
    await store.release([key, missing], "judging")
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT holder FROM response_holds"))).scalars().all() == [
            "reviews"
        ]


async def test_a_hold_is_part_of_its_callers_transaction(database_url: str, engine: AsyncEngine) -> None:
    [key] = await store_responses(database_url, [new_response(1)])
    async with engine.connect() as connection:
        assert await hold(connection, [key], "judging") == {key}
        await connection.rollback()
        assert (await connection.execute(text("SELECT count(*) FROM response_holds"))).scalar() == 0


async def test_partitions_are_created_once_by_any_number_of_writers(
    database_url: str, engine: AsyncEngine
) -> None:
    written = await asyncio.gather(
        *(store_responses(database_url, [new_response(number)]) for number in range(4))
    )
    assert sum(map(len, written)) == 4
    stored, _ = await ResponseStore(engine).after(0, 10)
    assert len(stored) == 4
