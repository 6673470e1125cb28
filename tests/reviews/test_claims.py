"""Exactly the wanted number of distinct reviewers answer each item, whatever happens."""

import asyncio
from collections import Counter, defaultdict
from random import Random
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.errors import Conflict, InvalidInput, NotFound
from app.core.postgres import create_engine
from app.reviews.claim_store import ClaimStore
from app.reviews.model import Answer, ItemState
from app.reviews.service import LeaseEnded
from tests.reviews.conftest import KEY, Reviewed

pytestmark = pytest.mark.anyio

GOOD, POOR = Answer(label=3), Answer(label=1)


async def items(engine: AsyncEngine) -> list:
    async with engine.connect() as connection:
        return list(await connection.execute(text("SELECT * FROM review_items ORDER BY id")))


async def prepared(reviewed: Reviewed, n: int = 1, **settings) -> None:
    await reviewed.put(**({"rate": 1.0} | settings))
    await reviewed.respond(n)
    assert await reviewed.draw() == n


async def test_a_claim_shows_prompt_response_and_rubric_and_nothing_that_tells_the_variant(
    reviewed: Reviewed,
):
    await prepared(reviewed, rubric="Is it right?")
    shown = await reviewed.service.claim("key:1")
    assert (shown.prompt, shown.response, shown.rubric) == ("a question", "an answer", "Is it right?")
    assert shown.labels == {1: "poor", 2: "acceptable", 3: "good"}
    hidden = {"variant", "model", "queue", "inclusion_probability", "response_id", "response_key", "detail"}
    assert not hidden & set(shown.__struct_fields__)


async def test_many_reviewers_at_once_give_each_item_exactly_the_wanted_reviews(
    reviewed: Reviewed, engine: AsyncEngine, database_url: str
):
    """Thirty reviewers race for 40 items of 3; they repeat, skip, release and answer late."""
    await prepared(reviewed, 40, reviewers=3)
    pool = create_engine(database_url, pool_size=30)  # two for each reviewer
    service = type(reviewed.service)(
        (reviewed.store, ClaimStore(pool), reviewed.reading, reviewed.responses),
        reviewed.service._experiments,
        reviewed.clock,
    )

    async def work(number: int, random: Random) -> int:
        reviewer, claims = f"key:{number}", 0
        while (shown := await service.claim(reviewer, KEY)) is not None:
            claims += 1
            again = await service.claim(reviewer, KEY)
            assert (again.item, again.lease) == (shown.item, shown.lease)
            action = random.random()
            if action < 0.1:
                await service.release(reviewer, shown.item, shown.lease)
            elif action < 0.2:
                await service.answer(reviewer, shown.item, shown.lease, Answer(reason="not my language"))
            else:
                if action < 0.3:  # the loop ends the lease first
                    mine = [
                        lease for lease in await service._claims.active_leases() if lease.reviewer == reviewer
                    ]
                    await asyncio.gather(*(service._claims.end(lease) for lease in mine))
                answer = Answer(label=random.choice((1, 2, 3)))
                sent = [service.answer(reviewer, shown.item, shown.lease, answer) for _ in range(2)]
                for result in await asyncio.gather(*sent, return_exceptions=True):
                    assert not isinstance(result, Exception) or isinstance(result, LeaseEnded)
        return claims

    # A place that is given back after the others have left is claimed in the next round.
    chances = [Random(number) for number in range(30)]
    while any(await asyncio.gather(*(work(number, chance) for number, chance in enumerate(chances)))):
        pass
    await pool.dispose()
    async with engine.connect() as connection:
        rows = list(await connection.execute(text("SELECT item_id, reviewer, label FROM reviews")))
        leases = await connection.scalar(text("SELECT count(*) FROM review_leases WHERE NOT ended"))
    labels, reviewers = Counter(row.item_id for row in rows if row.label), defaultdict(list)
    for row in rows:
        reviewers[row.item_id].append(row.reviewer)
    assert {len(set(names)) == len(names) for names in reviewers.values()} == {True}
    stored = await items(engine)
    assert {row.state for row in stored} <= {"done", "given_up"}
    assert all(labels[row.id] == row.labelled == row.wanted for row in stored if row.state == "done")
    assert all(labels[row.id] < row.wanted for row in stored if row.state == "given_up")
    assert leases == 0


async def test_one_item_for_one_review_goes_to_one_of_many_reviewers(reviewed: Reviewed, engine: AsyncEngine):
    await prepared(reviewed)
    claims = await asyncio.gather(*(reviewed.service.claim(f"key:{number}") for number in range(8)))
    assert sum(claim is not None for claim in claims) == 1


async def test_a_repeated_submit_is_the_same_review_and_another_label_is_refused(reviewed: Reviewed):
    await prepared(reviewed)
    shown = await reviewed.service.claim("key:1")
    first = await reviewed.service.answer("key:1", shown.item, shown.lease, GOOD)
    assert await reviewed.service.answer("key:1", shown.item, shown.lease, GOOD) == first
    with pytest.raises(Conflict, match="send a correction"):
        await reviewed.service.answer("key:1", shown.item, shown.lease, POOR)


async def test_a_correction_is_a_new_revision_and_the_earlier_one_stays(reviewed: Reviewed):
    await prepared(reviewed)
    shown = await reviewed.service.claim("key:1")
    await reviewed.service.answer("key:1", shown.item, shown.lease, GOOD)
    corrected = await reviewed.service.correct("key:1", shown.item, POOR)
    assert corrected.revision == 2
    assert await reviewed.service.correct("key:1", shown.item, POOR) == corrected
    pages = [
        row async for page in reviewed.reading.answers(reviewed.experiment.id, revisions=True) for row in page
    ]
    assert [(row.answer_revision, row.label) for row in pages] == [(1, 3), (2, 1)]
    (label,) = await reviewed.store.labels(reviewed.experiment.id)
    assert (label.label, label.score, label.n_reviewers, label.complete) == (1.0, 0.0, 1, True)


async def test_only_the_reviewer_corrects_a_review(reviewed: Reviewed):
    await prepared(reviewed)
    shown = await reviewed.service.claim("key:1")
    await reviewed.service.answer("key:1", shown.item, shown.lease, GOOD)
    with pytest.raises(Conflict, match="not answered"):
        await reviewed.service.correct("key:2", shown.item, POOR)
    with pytest.raises(LeaseEnded):
        await reviewed.service.answer("key:2", shown.item, shown.lease, POOR)
    with pytest.raises(NotFound):
        await reviewed.service.answered("key:2", shown.item)


async def test_a_late_answer_counts_while_its_place_is_free_and_not_after(
    reviewed: Reviewed, engine: AsyncEngine
):
    await prepared(reviewed, 2)
    first, second = [await reviewed.service.claim(f"key:{number}") for number in (1, 2)]
    for lease in await reviewed.claims.active_leases():
        assert await reviewed.claims.end(lease)
    await reviewed.service.answer("key:1", first.item, first.lease, GOOD)
    other = await reviewed.service.claim("key:3")
    assert other.item == second.item
    with pytest.raises(LeaseEnded, match="other reviewers"):
        await reviewed.service.answer("key:2", second.item, second.lease, GOOD)
    await reviewed.service.answer("key:3", other.item, other.lease, GOOD)
    assert [(row.labelled, row.state) for row in await items(engine)] == [(1, "done"), (1, "done")]


async def test_a_renewed_lease_does_not_end(reviewed: Reviewed):
    await prepared(reviewed)
    await reviewed.service.claim("key:1")
    (seen,) = await reviewed.claims.active_leases()
    await reviewed.service.claim("key:1")
    assert not await reviewed.claims.end(seen)
    (renewed,) = await reviewed.claims.active_leases()
    assert await reviewed.claims.end(renewed)
    assert not await reviewed.claims.end(renewed)


async def test_a_jump_of_the_clock_ends_no_lease(reviewed: Reviewed):
    await prepared(reviewed)
    shown = await reviewed.service.claim("key:1")
    for seconds in (10**7, -2 * 10**7):
        reviewed.clock.forward(seconds)
        assert await reviewed.service.claim("key:2") is None
        assert (await reviewed.service.claim("key:1")).lease == shown.lease
    review = await reviewed.service.answer("key:1", shown.item, shown.lease, GOOD)
    assert review.seconds == 0.0


async def test_a_skip_leaves_the_place_to_another_reviewer_and_can_be_undone(reviewed: Reviewed):
    await prepared(reviewed)
    shown = await reviewed.service.claim("key:1")
    await reviewed.service.answer("key:1", shown.item, shown.lease, Answer(reason="not my language"))
    assert await reviewed.service.claim("key:1") is None
    other = await reviewed.service.claim("key:2")
    assert other.item == shown.item
    with pytest.raises(Conflict, match="other reviewers"):
        await reviewed.service.correct("key:1", shown.item, GOOD)
    await reviewed.service.release("key:2", other.item, other.lease)
    await reviewed.service.release("key:2", other.item, other.lease)
    assert (await reviewed.service.correct("key:1", shown.item, GOOD)).label == 3


async def test_an_item_that_too_many_reviewers_skip_is_given_up(reviewed: Reviewed, engine: AsyncEngine):
    await prepared(reviewed)
    for number in range(10):
        shown = await reviewed.service.claim(f"key:{number}")
        if shown is None:
            break
        await reviewed.service.answer(f"key:{number}", shown.item, shown.lease, Answer(reason="unreadable"))
    assert [(row.state, row.skipped) for row in await items(engine)] == [(ItemState.GIVEN_UP, 4)]


@pytest.mark.parametrize("answer", [Answer(label=0), Answer(label=4), Answer(label=-1), Answer(reason="  ")])
async def test_refuses_labels_outside_the_set_and_blank_reasons(reviewed: Reviewed, answer: Answer):
    await prepared(reviewed)
    shown = await reviewed.service.claim("key:1")
    with pytest.raises(InvalidInput):
        await reviewed.service.answer("key:1", shown.item, shown.lease, answer)


async def test_an_unknown_lease_is_refused(reviewed: Reviewed):
    await prepared(reviewed)
    shown = await reviewed.service.claim("key:1")
    with pytest.raises(LeaseEnded, match="claim an item first"):
        await reviewed.service.answer("key:1", shown.item, uuid4(), GOOD)
    with pytest.raises(NotFound):
        await reviewed.service.answer("key:1", 10**20, uuid4(), GOOD)


async def test_an_item_keeps_the_rubric_that_its_first_reviewer_saw(reviewed: Reviewed):
    await prepared(reviewed, 2, reviewers=2, rubric="old")
    first = await reviewed.service.claim("key:1")
    await reviewed.put(rate=1.0, reviewers=1, rubric="new")
    await reviewed.service.answer("key:1", first.item, first.lease, GOOD)
    second = await reviewed.service.claim("key:2")
    assert (second.item, second.rubric) == (first.item, "old")
    await reviewed.service.answer("key:2", second.item, second.lease, GOOD)
    assert (await reviewed.service.claim("key:1")).rubric == "new"


async def test_an_open_item_keeps_its_response_and_a_closed_one_lets_it_expire(
    reviewed: Reviewed, engine: AsyncEngine
):
    await prepared(reviewed)

    async def holds() -> list[str]:
        async with engine.connect() as connection:
            return list((await connection.execute(text("SELECT holder FROM response_holds"))).scalars())

    assert await holds() == ["reviews sample"]
    shown = await reviewed.service.claim("key:1")
    await reviewed.service.answer("key:1", shown.item, shown.lease, GOOD)
    assert await holds() == []
    await reviewed.service.correct("key:1", shown.item, Answer(reason="I was wrong about the language"))
    assert await holds() == ["reviews sample"]


async def test_an_item_whose_response_was_erased_is_given_up(reviewed: Reviewed, engine: AsyncEngine):
    await prepared(reviewed, 2)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE responses SET body = NULL"))
    assert await reviewed.service.claim("key:1") is None
    assert {row.state for row in await items(engine)} == {"given_up"}


async def test_refuses_another_label_set_once_labels_exist(reviewed: Reviewed):
    await prepared(reviewed)
    shown = await reviewed.service.claim("key:1")
    await reviewed.put(rate=1.0, labels={1: "no", 2: "yes"})
    await reviewed.service.answer("key:1", shown.item, shown.lease, GOOD)
    with pytest.raises(Conflict, match="must keep the digits 1, 2, 3"):
        await reviewed.put(rate=1.0, labels={0: "no", 1: "yes"})
