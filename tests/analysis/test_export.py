"""The log as a file: every exposed assignment once, as sent, page by page, whatever units are called."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from urllib.parse import quote
from uuid import UUID

import pytest

from app.access.model import Scope
from app.analysis import limits
from app.analysis.export import CsvWriter, Row, writer
from app.core.errors import UnprocessableInput
from app.experiments.model import Definition, Variant
from app.ledger.tables import assignments
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
    assert (await download(client)).text == ",".join(Row._fields) + "\r\n"


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
    pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
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
