"""The commands `wald review` against a server, and files of labels in parts."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from app.cli.files import reviews as files
from app.cli.files.reviews import UnknownKind, chunks
from app.cli.main import main
from app.core.clock import SystemClock
from app.core.postgres import create_engine, psycopg_dsn
from app.experiments.model import Definition, Variant
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from app.responses.store import ResponseStore
from app.reviews.sample_store import SampleStore
from tests.reviews.conftest import KEY, respond
from tests.support.clocks import SettableClock
from tests.support.serving import ADMIN_KEY, ensure_keys, served

N = 4


class Running:
    """A server in a thread with stored responses, and the commands against it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def run(self, *arguments: str, keys: str | None = None) -> Result:
        environment = {"WALD_URL": self.url, "WALD_API_KEY": ADMIN_KEY, "COLUMNS": "100"}
        return CliRunner().invoke(main, ["review", *arguments], input=keys, env=environment)


@pytest.fixture
def running(database_url: str, valkey_url: str) -> Iterator[Running]:
    ready, stop = threading.Event(), threading.Event()
    urls: list[str] = []

    async def serve() -> None:
        await ensure_keys(database_url, valkey_url)
        engine, clock = create_engine(database_url), SettableClock()

        async def unpublished(_: int) -> None:
            """Do without a worker."""

        experiments = ExperimentService(ExperimentStore(engine), SystemClock(), unpublished)
        definition = Definition(key=KEY, variants=(Variant("control", control=True), Variant("short")))
        experiment = await experiments.create(definition)
        await respond(database_url, experiment, clock, N)
        sample = SampleStore(engine, ResponseStore(engine))
        async with served(database_url, valkey_url) as server:
            urls.append(server.url)
            ready.set()
            while not stop.is_set():
                for experiment_id in await sample.experiments():
                    await sample.sample(experiment_id, clock.now())
                await asyncio.sleep(0.02)
        await engine.dispose()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(60)
    yield Running(urls[0])
    stop.set()
    thread.join()


def decoded(result: Result) -> dict:
    """Return the JSON that a command printed; the server's log may stand before it."""
    return json.loads(result.stdout[result.stdout.index("{") :])


def sampled(database_url: str) -> None:
    """Wait until the sample is drawn."""
    with psycopg.connect(psycopg_dsn(database_url), autocommit=True) as connection:
        for _ in range(3_000):
            row = connection.execute("SELECT count(*) FROM review_items").fetchone()
            if row == (N,):
                return
    raise AssertionError("the sample was not drawn")


def test_from_settings_to_agreement(running: Running, database_url: str, tmp_path: Path):
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("Is it right?\nIs it short?")
    shown = running.run("settings", KEY)
    assert "not set up; these are the defaults" in shown.output
    changed = running.run(
        "settings", KEY, "--rate", "1", "--rubric", str(rubric), "--reviewers", "2", "--json"
    )
    assert changed.exit_code == 0, changed.output
    assert decoded(changed)["reviewers"] == 2
    kept = decoded(running.run("settings", KEY, "--lease-s", "60", "--json"))
    assert (kept["rate"], kept["lease_s"], kept["revision"]) == (1.0, 60, 2)
    sampled(database_url)

    answered = running.run("answer", KEY, keys="3?2cshort\n1u3snot my language\n")
    assert answered.exit_code == 0, answered.output
    assert "Is it short?" in answered.output
    assert "You answered 1." in answered.output
    assert "It is 3 now." in answered.output
    assert "You have answered 4 in this session." in answered.output
    assert "Nothing more to review now." in answered.output

    exported = running.run("export", KEY, "--format", "jsonl")
    rows = [json.loads(line) for line in exported.output.splitlines() if line.startswith("{")]
    assert sorted((row["label"] or 0, row["comment"]) for row in rows) == [(0, ""), (2, ""), (3, ""), (3, "")]
    file = tmp_path / "labels.csv"
    lines = [f"{row['response_id']},{row['label']},bob" for row in rows if row["label"]]
    file.write_text("\n".join(["response_id,label,reviewer", *lines, "unknown,1,bob"]))
    result = running.run("import", KEY, str(file))
    assert result.exit_code == 1
    assert "3 labels imported" in result.output
    assert f"{file}: line 5: response_id: no response" in result.output.replace("\n", " ").replace("  ", " ")
    again = running.run("import", KEY, str(file), "--json")
    assert decoded(again)["unchanged"] == 3

    listed = running.run("list", KEY)
    assert "sample" in listed.output
    assert "import:bob" in listed.output
    agreement = running.run("agreement", KEY)
    assert "Krippendorff's alpha" in agreement.output
    mine = running.run("list")
    assert KEY in mine.output


def test_a_reviewer_who_stops_gives_the_item_back(running: Running, database_url: str):
    running.run("settings", KEY, "--rate", "1")
    sampled(database_url)
    stopped = running.run("answer", KEY, keys="q")
    assert "You have answered 0 in this session." in stopped.output
    with psycopg.connect(psycopg_dsn(database_url)) as connection:
        assert connection.execute("SELECT count(*) FROM review_leases").fetchone() == (0,)


def test_wrong_arguments_say_what_is_right(running: Running, tmp_path: Path):
    assert "did you mean" in running.run("agrement", KEY).output.lower()
    assert "1=poor" in running.run("settings", KEY, "--label", "one=poor").output
    file = tmp_path / "labels.txt"
    file.write_text("x")
    result = running.run("import", KEY, str(file))
    assert result.exit_code == 2
    assert ".jsonl" in result.output
    assert "no experiment" in running.run("list", "nope").output


def test_parts_of_a_file_name_the_lines_of_the_whole_file(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(files, "ROWS_MAX", 2)
    file = tmp_path / "labels.csv"
    file.write_text('\ufeffresponse_id,label,reviewer,comment\na,1,x,"two\nlines"\n\nb,2,x,\nc,3,x,\n')
    parts = list(chunks(file))
    assert [part.lines for part in parts] == [{1: 1, 3: 3, 4: 4}, {1: 1, 2: 5, 3: 6}]
    lines = tmp_path / "labels.jsonl"
    lines.write_text("{}\n{}\n{}")
    assert [part.lines for part in chunks(lines)] == [{1: 1, 2: 2}, {1: 3}]
    with pytest.raises(UnknownKind):
        list(chunks(tmp_path / "labels"))
