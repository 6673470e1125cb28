"""What the processes of a deployment write to standard error, and how they refuse what cannot work."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner

from app.cli.main import main
from app.core import migrations
from tests.support.server import free_port
from tests.support.serving import ensure_keys

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[1]
OUTAGE_LINES_BYTES_MAX = 25_000


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "app.cli", *arguments]


@contextmanager
def running(arguments: list[str], environment: Mapping[str, str]) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        command(*arguments), cwd=ROOT, env=os.environ | environment, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def lines_until(process: "subprocess.Popen[str]", event: str) -> list[dict[str, Any]]:
    """Return its lines up to the first of an event; each of them is JSON."""
    assert process.stderr is not None
    found = []
    for line in process.stderr:
        found.append(json.loads(line))
        if found[-1]["event"] == event:
            return found
    raise AssertionError(f"no line `{event}`: {found}")


async def test_a_server_says_once_what_it_is_where_it_listens_and_that_it_is_drained(
    database_url: str, valkey_url: str
):
    await ensure_keys(database_url, valkey_url)
    port = free_port()
    environment = {
        "WALD_DATABASE_URL": database_url,
        "WALD_VALKEY_URL": valkey_url,
        "WALD_PORT": str(port),
        "WALD_ACCESS_LOG": "true",
    }
    with running(["serve"], environment) as process:
        lines = lines_until(process, "listening")
        headers = {"X-Request-ID": "asked-for", "X-API-Key": "an-admin-key-of-the-tests"}
        address = f"http://127.0.0.1:{port}"
        answer = httpx2.get(f"{address}/keys?unit=secret", headers=headers, verify=False, timeout=20)
        assert answer.headers["x-request-id"] == "asked-for"
        event = {"experiment": "e", "unit": "u", "signal": "s"}
        answer = httpx2.post(f"{address}/feedback", json=event, headers=headers, verify=False, timeout=20)
        assert answer.headers["x-request-id"] == "asked-for"
        process.send_signal(signal.SIGTERM)
        lines += lines_until(process, "drained")
    by_event = {line["event"]: line for line in lines}
    for event in ("version", "peers", "schema", "listening", "drained"):
        assert [line["event"] for line in lines].count(event) == 1
    assert by_event["schema"]["revision"] == by_event["schema"]["needed"] == migrations.head()
    assert by_event["listening"]["url"].endswith(f":{port}")
    assert by_event["drained"]["took_s"] >= 0
    assert {line["process"] for line in lines} == {"serve"}
    assert all(line["level"] in {"info", "warning"} and line["timestamp"].endswith("Z") for line in lines)
    requests = [line for line in lines if line["event"] == "request"]
    assert [(one["method"], one["path"], one["request_id"]) for one in requests] == [
        ("GET", "/keys", "asked-for"),
        ("POST", "/feedback", "asked-for"),
    ]
    assert all(one["client"] == "127.0.0.1" and one["duration_ms"] >= 0 for one in requests)


def test_an_outage_is_a_few_lines_without_a_traceback():
    away = free_port()
    environment = {
        "WALD_DATABASE_URL": f"postgresql://wald:hidden@127.0.0.1:{away}/wald",
        "WALD_VALKEY_URL": f"redis://:hidden@127.0.0.1:{away}/0",
        "WALD_PORT": str(free_port()),
    }
    with running(["worker", "--port", environment["WALD_PORT"]], environment) as process:
        lines_until(process, "listening")
        time.sleep(3)  # what is wanted is that nothing happens
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        text = process.stderr.read()
        assert process.wait(30) == 0
    assert "Traceback" not in text
    assert "hidden" not in text
    assert len(text) < OUTAGE_LINES_BYTES_MAX
    assert all(json.loads(line)["event"] for line in text.splitlines())


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (["serve"], {"WALD_DATABASE_URL": "mysql://h/db"}, "WALD_DATABASE_URL must start with"),
        (["worker"], {"WALD_VALKEY_URL": "valkey:6379"}, "WALD_VALKEY_URL must start with"),
        (["serve"], {"WALD_VALKEY_URL": "redis://:hidden@h:port/0"}, "WALD_VALKEY_URL is not a URL"),
        (["serve"], {"WALD_LOG_LEVEL": "verbose"}, "WALD_LOG_LEVEL must be one of debug, info"),
        (["serve"], {"WALD_TRUSTED_PROXIES": "everyone"}, "everyone"),
        (["migrate"], {"WALD_DATABASE_URL": "postgresql://u:hidden@127.0.0.1:1/db"}, "cannot be used"),
        (["keys", "list"], {"WALD_DATABASE_URL": "postgresql://u:hidden@127.0.0.1:1/db"}, "cannot be used"),
    ],
)
def test_a_wrong_url_and_an_absent_database_are_refused_in_one_message(
    arguments: list[str], environment: dict[str, str], told: str
):
    engines = {"WALD_DATABASE_URL": "postgresql://127.0.0.1:1/db", "WALD_VALKEY_URL": "redis://127.0.0.1:1/0"}
    done = CliRunner().invoke(main, arguments, env=engines | environment)
    said = " ".join(done.output.replace("│", " ").split())
    assert done.exit_code in {1, 2}
    assert isinstance(done.exception, SystemExit), "told, not raised"
    assert told in said
    assert "hidden" not in said
