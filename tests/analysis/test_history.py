"""Readouts are kept as experiments change; what they find broken freezes learning; the past can be asked."""

from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from sqlalchemy import func, select, text

from app.analysis import limits
from app.analysis.loop import AnalysisLoops
from app.analysis.service import ReadoutKeeper
from app.analysis.store import AnalysisStore
from app.analysis.tables import readouts
from app.experiments.model import Definition, Variant
from app.experiments.policies import FixedPolicy
from app.ledger.tables import stream_positions
from tests.support.totals import record

pytestmark = pytest.mark.anyio

VARIANTS = (Variant("control", control=True), Variant("short"))
EVEN = FixedPolicy({"control": 0.5, "short": 0.5})
PATH = "/experiments/summary/status"


@pytest.fixture
def keeper(engine, allocation, lag) -> ReadoutKeeper:
    return ReadoutKeeper(AnalysisStore(engine), allocation, lag)


@pytest.fixture
async def experiment(experiments):
    await experiments.create(Definition(key="summary", variants=VARIANTS, policy=EVEN))
    return await experiments.start("summary")


async def age(engine, seconds: float) -> None:
    """Let all readouts be that much older."""
    async with engine.begin() as connection:
        await connection.execute(readouts.update().values(at=readouts.c.at - timedelta(seconds=seconds)))


async def kept(engine) -> int:
    async with engine.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(readouts))).scalar_one()


async def get(client, at: datetime):
    return await client.get(f"{PATH}?at={quote(at.isoformat())}")


async def test_an_experiment_is_read_when_it_has_changed_and_not_more_often_than_allowed(
    keeper, engine, experiments, experiment
):
    await experiments.create(Definition(key="draft", variants=VARIANTS))
    assert await keeper.due() == [experiment.id]
    await keeper.read(experiment.id)
    await record(engine, experiment, (100, 30), (100, 30))
    assert await keeper.due() == []
    await age(engine, limits.READOUT_INTERVAL_S + 1)
    assert await keeper.due() == [experiment.id]
    await keeper.read(experiment.id)
    await age(engine, limits.READOUT_INTERVAL_S + 1)
    assert await keeper.due() == []
    await experiments.stop("summary")  # its last word is kept too
    assert await keeper.due() == [experiment.id]


async def test_what_was_known_at_a_time_is_the_newest_readout_before_it(client, keeper, engine, experiment):
    await record(engine, experiment, (100, 30), (100, 40))
    await keeper.read(experiment.id)
    await age(engine, 3_600)
    first = (await client.get(PATH)).json()
    await record(engine, experiment, (100, 30), (100, 60))
    await keeper.read(experiment.id)
    now = datetime.now(UTC)
    then, after = await get(client, now - timedelta(seconds=1_800)), await get(client, now)
    assert (then.status_code, after.status_code) == (200, 200)
    then, after = then.json(), after.json()
    assert [one["rewards"] for one in then["variants"]] == [100, 100]
    assert [one["rewards"] for one in after["variants"]] == [200, 200]
    times = {"read_at", "allocation_history", "rollouts"}
    assert {k: v for k, v in then.items() if k not in times} == {
        k: v for k, v in first.items() if k not in times
    }
    assert then["allocation_history"] == []  # those rows are not an hour old
    assert [point["shares"] for point in after["allocation_history"]] == [[0.5, 0.5], [0.5, 0.5]][:1]


async def test_before_the_first_readout_nothing_is_known(client, keeper, experiment):
    answer = await get(client, datetime.now(UTC))
    assert answer.status_code == 404
    assert "no readout is kept yet" in answer.json()["detail"]
    await keeper.read(experiment.id)
    answer = await get(client, datetime.now(UTC) - timedelta(days=1))
    assert answer.status_code == 404
    assert "the first readout is of" in answer.json()["detail"]


@pytest.mark.parametrize("at", ["yesterday", "", "2026-01-01T12:00:00", "1e400", "9999-99-99"])
async def test_a_time_that_is_none_is_refused(client, experiment, at):
    answer = await client.get(f"{PATH}?at={at}")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
async def test_a_time_at_the_end_of_the_calendar_is_a_time(client, experiment, at):
    assert (await client.get(f"{PATH}?at={quote(at)}")).status_code == 404
    assert (await client.get(f"/experiments/summary/assignments?since={quote(at)}")).status_code == 200


async def test_older_readouts_stand_farther_apart(keeper, engine, experiment):
    def at(hours: float, seconds: float) -> datetime:
        hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=hours)
        return hour + timedelta(seconds=seconds)

    moments = [
        *(at(2, 60 * minute) for minute in range(10)),  # two spans of five minutes
        *(at(30, 60 * minute) for minute in range(10)),  # one hour
        datetime.now(UTC) - timedelta(seconds=2),
        datetime.now(UTC) - timedelta(seconds=1),
    ]
    async with engine.begin() as connection:
        rows = [{"experiment_id": experiment.id, "at": at, "wanted": 1, "body": b""} for at in moments]
        await connection.execute(readouts.insert(), rows)
    await keeper.thin()
    async with engine.connect() as connection:
        left = list((await connection.execute(select(readouts.c.at).order_by(readouts.c.at))).scalars())
    assert left == [at(30, 540), at(2, 240), at(2, 540), *moments[-2:]]


async def test_a_broken_split_freezes_learning_and_says_so(client, keeper, engine, allocation, experiment):
    await record(engine, experiment, (1_000, 300), (500, 150))
    await keeper.read(experiment.id)
    frozen = (await client.get(PATH)).json()["frozen"]
    (cause,) = frozen["causes"]
    assert cause["kind"] == "sample_ratio"
    assert cause["size"] == pytest.approx(1 / 3)
    await allocation.unfreeze("summary", "a bot, filtered now", key_id=1)
    await keeper.read(experiment.id)
    assert (await client.get(PATH)).json()["frozen"] is None


async def test_a_bandit_whose_split_is_as_it_should_be_learns_on(keeper, engine, experiments, allocation):
    await experiments.create(Definition(key="summary", variants=VARIANTS))
    experiment = await experiments.start("summary")
    await record(engine, experiment, (1_000, 300), (1_000, 320))
    await keeper.read(experiment.id)
    assert await allocation.freezes("summary") == []


async def test_stale_totals_are_broken_until_the_ledger_is_there_again(client, keeper, engine, experiment):
    async def watermark(seconds: float) -> None:
        async with engine.begin() as connection:
            await connection.execute(stream_positions.delete())
            row = {"shard": 0, "watermark": datetime.now(UTC) - timedelta(seconds=seconds)}
            await connection.execute(stream_positions.insert(), row)

    await watermark(300)
    await keeper.read(experiment.id)
    body = (await client.get(PATH)).json()
    assert body["frozen"]["causes"][0]["kind"] == "stale_totals"
    assert body["analysis"]["recommendation"]["action"] == "fix_data"
    await watermark(1)
    await age(engine, limits.READOUT_INTERVAL_S + 1)
    assert await keeper.due() == [experiment.id]
    await keeper.read(experiment.id)
    assert (await client.get(PATH)).json()["frozen"] is None


async def test_the_loop_goes_on_where_one_experiment_cannot_be_read(engine, keeper, experiments, experiment):
    await experiments.create(Definition(key="broken", variants=VARIANTS))
    broken = await experiments.start("broken")
    async with engine.begin() as connection:
        body = {"key": "broken", "variants": "of a newer version"}
        statement = text("UPDATE experiments SET definition = CAST(:body AS json) WHERE id = :id")
        await connection.execute(statement, {"id": broken.id, "body": str(body).replace("'", '"')})
    loops = AnalysisLoops(keeper)
    (readouts_loop, _) = loops.all()
    await readouts_loop.run()
    assert await kept(engine) == 1
    assert list(loops.errors) == [f"readout of experiment {broken.id}"]
