"""The documented ways to start work: in any order, more than once, and in any folder."""

import asyncio
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import httpx2
import psycopg
import pytest
import yaml
from click.testing import CliRunner, Result

from app.cli.main import main
from app.core import migrations
from app.core.agreement import agree
from app.core.engines import EmbeddedEngines
from app.core.postgres import create_engine, psycopg_dsn
from app.core.settings import Settings
from tests.support.deployment import (
    clean_environment,
    empty_database,
    hostile_folder,
    problems,
    run,
    running,
)

pytestmark = pytest.mark.timeout(240)
ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
ADMIN_KEY = "a-key-that-the-environment-presets"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return hostile_folder(folder)


@pytest.fixture
async def clean_database(engines: EmbeddedEngines, request: pytest.FixtureRequest) -> Iterator[str]:
    with empty_database(engines.database_url, re.sub(r"\W", "_", request.node.name)[:60]) as url:
        yield url


@pytest.fixture
def environment(clean_database: str, valkey_url: str) -> dict[str, str]:
    """That of the containers in compose.yaml, with engines of this test."""
    given = {
        "${WALD_ADMIN_KEY:?set it}": ADMIN_KEY,
        "redis://valkey:6379/0": valkey_url,
        "postgresql://wald:${POSTGRES_PASSWORD:?set it}@postgres:5432/wald": clean_database,
    }
    declared = COMPOSE["services"]["server"]["environment"]
    assert declared == COMPOSE["services"]["worker"]["environment"]
    return clean_environment(**{name: given.get(value, value) for name, value in declared.items()})


def command_of(service: str) -> list[str]:
    return COMPOSE["services"][service]["command"]


def keys_in(url: str) -> tuple[int, int]:
    """How many admin keys and signing keys there are."""
    with psycopg.connect(psycopg_dsn(url)) as connection:
        admin = connection.execute("SELECT count(*) FROM api_keys WHERE 'admin' = ANY (scopes)").fetchone()
        signing = connection.execute("SELECT count(*) FROM signing_keys").fetchone()
    assert admin is not None
    assert signing is not None
    return admin[0], signing[0]


def assign_once(url: str, key: str) -> None:
    """An experiment that was started is assigned from at once, and its feedback is taken."""
    headers = {"Authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=url, headers=headers, timeout=10, verify=False) as client:
        variants = [{"key": "a", "control": True}, {"key": "b"}]
        name = f"e{time.monotonic_ns()}"
        client.post("/experiments", json={"key": name, "variants": variants}).raise_for_status()
        client.post(f"/experiments/{name}/start").raise_for_status()
        assigned = client.get("/assign", params={"experiment": name, "unit": "u"}).raise_for_status().json()
        assert assigned["reason"] == "SPLIT"
        event = {"assignment_id": assigned["assignment_id"], "signal": "thumbs_up"}
        assert client.post("/feedback", json=event).status_code == 202


def test_containers_are_healthy_when_they_are_ready():
    for service, port in (("server", "8000"), ("worker", "8001")):
        health = " ".join(COMPOSE["services"][service]["healthcheck"]["test"])
        assert f"127.0.0.1:{port}/ready" in health
    assert command_of("worker")[1:] == ["--port", "8001"]


def test_servers_and_workers_start_in_any_order_and_make_what_is_missing_once(
    project, environment, clean_database
):
    with ExitStack() as stack:
        started = [
            stack.enter_context(running(command_of(service), project, environment))
            for service in ("server", "worker")
        ]
        for process in started:
            process.wait(503, "run `wald migrate`")
            assert process.log.count("schema_missing") == 1
            assert "run `wald migrate`" in process.log
        assert wald("doctor", environment).exit_code == 1
        migrated = run(command_of("migrate"), project, environment)
        assert migrated.returncode == 0, migrated.stderr
        for process in started:
            process.wait(200)
        assign_once(started[0].url, ADMIN_KEY)
        started[0].wait(200, '"status":"ready"')
        assert ADMIN_KEY not in "".join(process.log for process in started)
        examined = wald("doctor", environment)
        assert examined.exit_code == 0, examined.output
    assert keys_in(clean_database) == (1, 1)
    assert run(command_of("migrate"), project, environment).returncode == 0
    with ExitStack() as stack:
        started = [
            stack.enter_context(running(command_of(service), project, environment))
            for service in ("worker", "server")
        ]
        for process in started:
            process.wait(200)
        assign_once(started[1].url, ADMIN_KEY)
        assert "schema_missing" not in "".join(process.log for process in started)
    assert keys_in(clean_database) == (1, 1)


def test_without_an_admin_key_the_log_says_how_to_make_one_and_holds_no_secret(
    project, environment, clean_database
):
    environment.pop("WALD_ADMIN_KEY")
    fix = "wald keys create NAME --kind adm"
    migrated = run(["migrate"], project, environment)
    assert fix in migrated.stdout
    assert keys_in(clean_database) == (0, 1)
    with running(["serve"], project, environment) as server:
        server.wait(200)
        (check,) = [one for one in problems(server.ready()[1]) if one["name"] == "admin key"]
        assert fix in check["detail"]
        assert server.log.count(fix) == 1
        assert "wald_adm_" not in server.log
        examined = wald("doctor", environment)
        assert examined.exit_code == 1
        assert "--kind adm" in examined.output
        made = wald("keys create me --kind adm", environment).stdout.strip()
        headers = {"Authorization": f"Bearer {made}"}
        while (answer := httpx2.get(f"{server.url}/keys", headers=headers, verify=False)).status_code == 503:
            time.sleep(int(answer.headers["retry-after"]))  # another process made the key a moment ago
        assert answer.status_code == 200


def test_another_number_of_stream_shards_is_refused_until_it_is_changed_on_purpose(
    project, environment, clean_database
):
    migrations.upgrade(clean_database)
    asyncio.run(settled(Settings(database_url=clean_database, stream_shards=2)))
    other = environment | {"WALD_STREAM_SHARDS": "3"}
    for command in (["worker"], ["serve"]):
        refused = run(command, project, other | {"WALD_PORT": "0"})
        said = " ".join(refused.stderr.replace("│", " ").split())
        assert refused.returncode == 1
        assert "WALD_STREAM_SHARDS is 3 here, but 2 in the database" in said
        assert "wald settings set stream_shards 3" in said
    assert wald("doctor", other).exit_code == 1
    assert wald("settings set stream_shards 3", other).exit_code == 0
    with running(["worker"], project, other) as worker:
        worker.wait(200)
        while not owned_shards(clean_database):
            time.sleep(0.05)
        again = wald("settings set stream_shards 2", other)
        assert again.exit_code == 1
        assert "stop all servers" in " ".join(again.output.split())
        assert "3" in wald("settings show", other).stdout
    assert wald("settings set stream_shards 2", other).exit_code == 0


def owned_shards(database_url: str) -> int:
    """Number of shards that a worker reads now."""
    with psycopg.connect(psycopg_dsn(database_url)) as connection:
        row = connection.execute("SELECT count(*) FROM stream_positions WHERE owner IS NOT NULL").fetchone()
    assert row is not None
    return row[0]


def test_up_works_in_any_folder_with_both_urls_and_prints_its_admin_key_once(
    project, environment, clean_database
):
    environment.pop("WALD_ADMIN_KEY")
    assert not (project / ".wald").exists()
    with running(["up"], project, environment) as up:
        up.wait(200)
        (key,) = re.findall(r"wald_adm_\w+", up.log)
        kept = project / ".wald/admin-key"
        assert kept.read_text().strip() == key
        assert kept.stat().st_mode & 0o777 == 0o600
        assign_once(up.url, key)
    with running(["up"], project, environment) as up:
        up.wait(200)
        assign_once(up.url, key)
        assert key not in up.log
        assert "executed" not in up.log
        assert "service_ended" not in up.log
    assert keys_in(clean_database) == (1, 1)


@pytest.mark.parametrize(
    "key", ["12345678", "a" * 15, "a" * 201, "a key with spaces in it", "schlüssel-der-lang-ist"]
)
def test_an_admin_key_out_of_bounds_is_refused_with_the_bound_and_the_way_to_a_good_one(key):
    for command in ("up", "serve", "worker", "migrate", "doctor"):
        refused = wald(command, {"WALD_ADMIN_KEY": key})
        said = " ".join(refused.output.replace("│", " ").split())
        assert refused.exit_code == 2
        assert "WALD_ADMIN_KEY must be 16 to 200 printable ASCII characters without spaces" in said
        assert "secrets.token_urlsafe(32)" in said
        assert key not in said


def wald(line: str, environment: Mapping[str, str]) -> Result:
    """A command that changes nothing of this process, run in it."""
    unset = {name: None for name in os.environ if name.startswith("WALD_")}
    return CliRunner().invoke(main, shlex.split(line), env=unset | dict(environment))


async def settled(settings: Settings) -> None:
    """What the first process stores."""
    assert settings.database_url is not None
    engine = create_engine(settings.database_url)
    await agree(engine, settings)
    await engine.dispose()
