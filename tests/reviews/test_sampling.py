"""The sample: known probabilities, every stratum, each response once."""

import asyncio
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.reviews.model import Answer, Candidate, Queue
from app.reviews.sampling import NANO, Progress, Stratum, rank, step
from app.reviews.service import enqueue
from tests.reviews.conftest import Reviewed

SALT = bytes(range(16))
HERE = Stratum(0, "")


def drawn(rate: float, n: int, salt: bytes = SALT, stratum: Stratum = HERE) -> list[float | None]:
    progress, probabilities = Progress(), []
    for _ in range(n):
        progress, probability = step(progress, rate, salt, stratum)
        probabilities.append(probability)
    assert progress.responses == n
    assert progress.sampled == sum(probability is not None for probability in probabilities)
    return probabilities


SALTS = st.binary(min_size=16, max_size=16)


@given(st.sampled_from([1, 2, 4, 5, 8, 10, 20, 50, 100, 1_000]), st.integers(0, 400), SALTS)
def test_a_stratum_gets_its_rate_give_or_take_one(m, n, salt):
    probabilities = [probability for probability in drawn(1 / m, n, salt) if probability is not None]
    assert abs(len(probabilities) - n / m) <= 1
    assert probabilities == [pytest.approx(1 / m)] * len(probabilities)


@given(st.floats(0, 1), st.integers(0, 400), SALTS)
def test_no_rate_gives_more_items_than_one_too_many(rate, n, salt):
    assert len([probability for probability in drawn(rate, n, salt) if probability]) <= n * rate + 1 + 1e-6


def test_rate_one_takes_all_with_certainty_and_rate_zero_takes_none():
    assert drawn(1.0, 50) == [1.0] * 50
    assert drawn(0.0, 50) == [None] * 50


def test_each_place_is_drawn_with_the_probability_that_is_stored():
    """Over 2,000 salts, each of 12 places at rates 0.4 and 0.1 is drawn as often as stored.

    A right sample fails with probability below 1e-6 for each place. Drawing the first response of
    each interval always, which has the same size, must fail.
    """
    for rate in (0.4, 0.1):
        counts, stored = [0] * 12, {}
        for number in range(2_000):
            for place, probability in enumerate(drawn(rate, 12, number.to_bytes(16, "big"))):
                if probability is not None:
                    counts[place] += 1
                    stored[place] = probability
        for place, count in enumerate(counts):
            low, high = binom.ppf([1e-6, 1 - 1e-6], 2_000, stored[place])
            assert low <= count <= high, (rate, place)
        low, high = binom.ppf([1e-6, 1 - 1e-6], 2_000, stored[0])
        assert not low <= 2_000 <= high  # the planted bug


def test_the_sample_is_a_function_of_salt_and_order_alone():
    assert drawn(0.05, 500) == drawn(0.05, 500)
    assert drawn(0.05, 500) != drawn(0.05, 500, salt=bytes(16))
    assert drawn(0.05, 500) != drawn(0.05, 500, stratum=Stratum(1, ""))


def test_a_rate_that_changes_keeps_known_probabilities():
    progress, _ = step(Progress(mass=round(0.8 * NANO)), 0.4, SALT, HERE)
    assert progress.mass == round(1.2 * NANO)
    chosen = [step(Progress(mass=round(0.8 * NANO)), 0.4, n.to_bytes(16, "big"), HERE)[1] for n in range(50)]
    probabilities = [probability for probability in chosen if probability is not None]
    assert probabilities == [pytest.approx(0.36)] * len(probabilities)
    assert 5 < len(probabilities) < 35


def test_ranks_do_not_follow_the_order_of_keys():
    keys = sorted(uuid4() for _ in range(100))
    assert keys != sorted(keys, key=lambda key: rank(SALT, key))


pytestmark = pytest.mark.anyio


async def rows(engine: AsyncEngine, statement: str) -> list:
    async with engine.connect() as connection:
        return list(await connection.execute(text(statement)))


async def test_two_workers_draw_each_response_once(reviewed: Reviewed, engine: AsyncEngine):
    await reviewed.put(rate=0.25)
    for variant in (0, 1):
        await reviewed.respond(40, variant=variant)
    await asyncio.gather(*(reviewed.draw() for _ in range(4)))
    strata = await reviewed.reading.strata(reviewed.experiment.id)
    assert [(stratum.variant, stratum.responses, stratum.sampled) for stratum in strata] == [
        (0, 40, 10),
        (1, 40, 10),
    ]
    items = await rows(engine, "SELECT variant, inclusion_probability, queue FROM review_items")
    assert sorted(set(items)) == [(0, 0.25, "sample"), (1, 0.25, "sample")]
    assert len(items) == 20
    assert await reviewed.draw() == 0


async def test_segments_are_strata_where_the_exposure_is_known(reviewed: Reviewed, engine: AsyncEngine):
    await reviewed.put(rate=1.0)
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "UPDATE experiments SET definition = (definition::jsonb || "
                """'{"plan": {"segments": {"attribute": "country", "values": ["DE"]}}}')::json"""
            )
        )
    keys = await reviewed.respond(3)
    stored = await reviewed.responses.read(keys)
    for response, context in zip(stored, ['{"country": "DE"}', '{"country": "FR"}'], strict=False):
        async with engine.begin() as connection:
            await connection.execute(
                text(
                    "INSERT INTO assignments (experiment_id, unit_hash, id, assigned_at, deadline,"
                    " epoch, policy_version, variant, propensity, context, exposed)"
                    " VALUES (:experiment, :unit, :id, now(), now(), 1, 1, 0, 0.5,"
                    " cast(:context AS jsonb), true)"
                ),
                {
                    "experiment": response.experiment_id,
                    "unit": response.unit_hash,
                    "id": response.assignment,
                    "context": context,
                },
            )
    await reviewed.draw()
    assert sorted(row.segment for row in await rows(engine, "SELECT segment FROM review_items")) == [
        "",
        "DE",
        "other",
    ]


async def test_without_a_rate_nothing_is_drawn_until_there_is_one(reviewed: Reviewed):
    await reviewed.respond(10)
    assert await reviewed.sample.experiments() == []
    await reviewed.put(rate=0.0)
    assert await reviewed.draw() == 0
    await reviewed.put(rate=1.0)
    assert await reviewed.draw() == 10


async def test_queues_do_not_mix(reviewed: Reviewed, engine: AsyncEngine):
    await reviewed.put(rate=0.5)
    await reviewed.respond(10)
    await reviewed.draw()
    stored, _ = await reviewed.responses.after(0, 100)
    candidates = [candidate(response, "judges a and b") for response in stored]
    for added in (5, 0):
        async with engine.begin() as connection:
            assert len(await enqueue(connection, candidates, reviewed.clock.now())) == added
    while (shown := await reviewed.service.claim("key:1")) is not None:
        await reviewed.service.answer("key:1", shown.item, shown.lease, Answer(label=2))
    labels = await reviewed.store.labels(reviewed.experiment.id)
    assert len(labels) == 10
    by_queue = {queue: [label for label in labels if label.queue is queue] for queue in Queue}
    assert {label.inclusion_probability for label in by_queue[Queue.SAMPLE]} == {0.5}
    assert {label.inclusion_probability for label in by_queue[Queue.DISAGREEMENT]} == {None}
    assert len(by_queue[Queue.SAMPLE]) == 5


async def test_a_disagreement_about_a_response_that_is_not_stored_is_left_out(
    reviewed: Reviewed, engine: AsyncEngine
):
    gone = Candidate(
        experiment_id=reviewed.experiment.id,
        response_key=uuid4(),
        response_id=None,
        epoch=1,
        variant=0,
        assignment=uuid4(),
        unit_hash=1,
    )
    async with engine.begin() as connection:
        assert await enqueue(connection, [gone], reviewed.clock.now()) == []
    settings = await reviewed.service.settings("summary")
    assert settings is not None
    assert settings.rate == 0.0


def candidate(response, detail: str) -> Candidate:
    return Candidate(
        experiment_id=response.experiment_id,
        response_key=response.response_key,
        response_id=response.response_id,
        epoch=response.epoch,
        variant=response.variant,
        assignment=response.assignment,
        unit_hash=response.unit_hash,
        detail=detail,
    )
