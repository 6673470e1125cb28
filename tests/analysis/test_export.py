"""The log as a file: every exposed assignment once, as sent, page by page, whatever units are called."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from urllib.parse import quote
from uuid import UUID

import pytest
from sqlalchemy import update

from app.access.model import Scope
from app.analysis import limits
from app.analysis.export import BASE, CsvWriter, Row, writer
from app.core.errors import UnprocessableInput
from app.experiments.metrics import Mean, Metric, Proportion, Ratio
from app.experiments.model import Definition, Variant
from app.ledger.tables import assignments, horizons, signals, unit_signals
from tests.support.api import KEYS, bearer

pytestmark = pytest.mark.anyio

PATH = "/experiments/summary/assignments"
AT = datetime(2026, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)
HOSTILE = [
    "a,b",
    'say "hello"',
    "two\nlines",
    "two\r\nlines",
    "Zoë 🦆 日本",
    "'quoted",
    "=1+1",
    '=HYPERLINK("http://evil.example","x")',
    "+49 30 123",
    "-5",
    "@SUM(A1)",
    "\tcell",
    "\rcell",
    "\n=1+1",
    "semi;colon",
    " padded ",
]


def assignment(number: int, unit: str = "unit", **more):
    given = {
        "experiment_id": 1,
        "unit_hash": number % 7 - 3,  # several of one unit
        "id": UUID(int=number + 1),
        "unit": unit,
        "assigned_at": AT + timedelta(seconds=number),
        "deadline": AT + timedelta(hours=1),
        "epoch": 1,
        "policy_version": 3,
        "variant": number % 2,
        "propensity": 0.1 + 0.2,
        "context": None,
        "exposed": True,
        "outcome": 1,
        "reward": 500_000_001,
    }
    return given | more


@pytest.fixture
async def experiment(experiments):
    variants = (Variant("control", control=True), Variant("-short"))
    await experiments.create(Definition(key="summary", variants=variants))
    return await experiments.start("summary")


@pytest.fixture
def log(engine, experiment):
    async def store(*rows):
        async with engine.begin() as connection:
            for row in rows:
                await connection.execute(assignments.insert(), row | {"experiment_id": experiment.id})

    return store


async def download(client, query=""):
    answer = await client.get(PATH + query)
    assert answer.status_code == 200, answer.text
    return answer


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


async def test_a_row_says_what_was_drawn_with_what_probability_and_what_came_of_it(client, log):
    await log(assignment(1, "u1", context={"lang": "dé", "n": 1.5}))
    answer = await download(client)
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="summary.csv"'
    (row,) = table(answer.text)
    assert row == {
        "context.lang": "dé",
        "context.n": "1.5",
        "signal.thumbs_up": "",
        "signal.thumbs_down": "",
        "assignment": str(UUID(int=2)),
        "unit": "u1",
        "variant": "'-short",
        "propensity": "0.30000000000000004",  # as drawn, to the last bit
        "policy_version": "3",
        "epoch": "1",
        "assigned_at": "2026-01-01T12:00:01.250000Z",
        "outcome": "rewarded",
        "reward": "0.500000001",
        "context": '{"n":1.5,"lang":"dé"}',  # PostgreSQL orders the keys
    }


async def test_missing_is_empty_and_feedback_without_an_exposure_is_no_assignment(client, log):
    await log(
        assignment(0, "pending", outcome=0, reward=None),
        assignment(1, "censored", outcome=3, reward=None),
        assignment(2, "silent", outcome=2, reward=0),
        assignment(3, None, exposed=False),
    )
    rows = {row["unit"]: (row["outcome"], row["reward"]) for row in table((await download(client)).text)}
    assert rows == {"pending": ("pending", ""), "censored": ("censored", ""), "silent": ("silent", "0.0")}


async def test_exactly_as_sent_whatever_units_are_called(client, log):
    await log(*(assignment(number, unit) for number, unit in enumerate(HOSTILE)))
    exact = table((await download(client, "?exact=true")).text)
    assert sorted(row["unit"] for row in exact) == sorted(HOSTILE)


async def test_no_cell_is_a_formula(client, log):
    await log(*(assignment(number, unit) for number, unit in enumerate(HOSTILE)))
    units = [row["unit"] for row in table((await download(client)).text)]
    assert len(units) == len(HOSTILE)
    assert not [unit for unit in units if unit[0] in "=+-@\t\r\n"]
    assert {unit.removeprefix("'") for unit in units} == {unit.removeprefix("'") for unit in HOSTILE}


async def test_a_log_of_many_pages_is_whole_and_has_nothing_twice(client, log, monkeypatch):
    monkeypatch.setattr(limits, "EXPORT_PAGE_ROWS", 5)
    for begin, end in ((0, 5), (5, 23)):  # the first is exactly one page
        await log(*(assignment(number, f"u{number}") for number in range(begin, end)))
        units = [row["unit"] for row in table((await download(client)).text)]
        assert sorted(units) == sorted(f"u{number}" for number in range(end))


async def test_an_empty_log_has_its_header(client, experiment):
    assert (await download(client)).text == ",".join(BASE) + ",signal.thumbs_up,signal.thumbs_down\r\n"


async def test_times_limit_what_is_exported(client, log):
    await log(*(assignment(number, f"u{number}") for number in range(4)))
    since, until = (quote((AT + timedelta(seconds=s)).isoformat()) for s in (1, 3))
    rows = table((await download(client, f"?since={since}&until={until}")).text)
    assert sorted(row["unit"] for row in rows) == ["u1", "u2"]
    assert (await client.get(f"{PATH}?since=2026-01-01T12:00:00")).status_code == 400


async def test_refusals_come_as_problems_before_the_first_byte(client, experiment):
    assert (await client.get("/experiments/nobody/assignments")).status_code == 404
    assert (await client.get(f"{PATH}?format=xlsx")).status_code == 400
    assert (await client.get(PATH, headers=bearer(KEYS[Scope.ASSIGN]))).status_code == 403


def row(number: int, unit: str) -> Row:
    return Row(
        UUID(int=number),
        unit,
        "short",
        0.25,
        3,
        1,
        AT,
        "pending",
        None,
        {"text": unit} if number % 2 else None,
    )


def test_pages_are_one_file():
    file = CsvWriter(exact=True)
    rows = [row(number, unit) for number, unit in enumerate(HOSTILE)]
    text = b"".join([file.page(rows[:3]), file.page(rows[3:]), file.page([]), file.end()]).decode()
    read = table(text)
    assert [one["unit"] for one in read] == HOSTILE
    assert [json.loads(one["context"])["text"] for one in read if one["context"]] == HOSTILE[1::2]


def test_parquet_holds_the_same_rows_with_their_types():
    from pyarrow import parquet

    file = writer("parquet", exact=False)
    rows = [row(number, unit) for number, unit in enumerate(HOSTILE)]
    body = b"".join([file.page(rows[:3]), file.page([]), file.page(rows[3:]), file.end()])
    read = parquet.ParquetFile(io.BytesIO(body))
    assert read.num_row_groups == 2
    found = read.read().to_pylist()
    assert [one["unit"] for one in found] == HOSTILE
    assert found[0]["assigned_at"] == AT
    assert (found[0]["propensity"], found[0]["reward"], found[0]["context"]) == (0.25, None, None)
    empty = writer("parquet", exact=False)
    assert parquet.ParquetFile(io.BytesIO(empty.page([]) + empty.end())).read().num_rows == 0


def test_without_its_library_parquet_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UnprocessableInput, match="pyarrow"):
        writer("parquet", exact=False)


METRICS = (
    Metric(key="copied", measure=Proportion("copied", silence=0)),
    Metric(key="speed", measure=Mean("latency_ms")),
    Metric(key="cost", measure=Ratio("cost_usd", "tokens_out")),
)


def signal(number: int, name: str, value: float, *, source: int = 1, after_s: float = 1.0):
    at = AT + timedelta(seconds=number + after_s)
    return {
        "assignment_id": UUID(int=number + 1),
        "event_key": f"#{name}/{source}",
        "experiment_id": 1,
        "unit_hash": number % 7 - 3,
        "signal": name,
        "source": source,
        "value": value,
        "at": at,
        "received_at": at,
    }


@pytest.fixture
async def measured(engine, experiments):
    variants = (Variant("control", control=True), Variant("short"))
    await experiments.create(Definition(key="summary", variants=variants, metrics=METRICS))
    running = await experiments.start("summary")
    rows = [
        assignment(0, "u0", context={"lang": "de", "n": 1, "beta": True, "tags": ["a"]}),
        assignment(1, "u1", context={"lang": "=1", "n": "many"}),
        assignment(2, "u2"),
    ]
    sent = [
        signal(0, "copied", 1.0),
        signal(0, "latency_ms", 800.0, source=2),
        signal(0, "latency_ms", 900.0, source=0, after_s=2),
        signal(1, "cost_usd", 0.25),
        signal(1, "tokens_out", 100.0),
        signal(1, "copied", 1.0, after_s=-100),  # too early: it does not count
    ]
    unit_signal = {name: sent[0][name] for name in ("experiment_id", "signal", "source")} | {
        "unit_hash": -1,
        "event_key": "#copied/1@5",
        "value": 1.0,
        "at": AT + timedelta(seconds=5),
        "received_at": AT + timedelta(seconds=5),
    }
    async with engine.begin() as connection:
        for row in rows:
            await connection.execute(assignments.insert(), row | {"experiment_id": running.id})
        for row in sent:
            await connection.execute(signals.insert(), row | {"experiment_id": running.id})
        await connection.execute(unit_signals.insert(), unit_signal | {"experiment_id": running.id})
        await connection.execute(update(horizons).values(swept_until=AT + timedelta(hours=2)))
    return running


async def test_every_signal_metric_and_context_is_a_column(client, measured):
    lines = (await download(client, "?format=jsonl")).text.splitlines()
    rows = {row["unit"]: row for row in map(json.loads, lines)}
    first = rows["u0"]
    assert (first["context.lang"], first["context.n"], first["context.beta"]) == ("de", "1", True)
    assert first["context.tags"] == '["a"]'
    assert first["context"] == {"lang": "de", "n": 1, "beta": True, "tags": ["a"]}
    assert (first["signal.copied"], first["signal.latency_ms"]) == (1.0, 900.0)  # the newest
    assert (first["metric.copied"], first["metric.speed"]) == (1.0, 850.0)  # of two sources
    assert rows["u1"]["metric.cost.numerator"] == 0.25
    assert rows["u1"]["metric.cost.denominator"] == 100.0
    assert (rows["u1"]["signal.copied"], rows["u1"]["metric.copied"]) == (None, 0.0)  # silence
    assert (rows["u2"]["signal.copied"], rows["u2"]["metric.copied"]) == (1.0, 1.0)  # by unit
    assert rows["u2"]["metric.speed"] is None


async def test_all_formats_have_the_same_columns_and_values(client, measured):
    from pyarrow import parquet

    by_line = [json.loads(line) for line in (await download(client, "?format=jsonl")).text.splitlines()]
    body = (await download(client, "?format=parquet")).content
    in_file = parquet.read_table(io.BytesIO(body)).to_pylist()
    in_table = table((await download(client, "?exact=true")).text)
    assert list(in_file[0]) == list(by_line[0]) == list(in_table[0])
    for name in by_line[0]:
        if name not in {"assigned_at", "context"}:
            assert [row[name] for row in in_file] == [row[name] for row in by_line]
    speeds = ["" if row["metric.speed"] is None else str(row["metric.speed"]) for row in by_line]
    assert [row["metric.speed"] for row in in_table] == speeds
    safe = {row["unit"]: row["context.lang"] for row in table((await download(client)).text)}
    assert safe["u1"] == "'=1"
