"""An engine that is away for seconds: what is still answered, and that nothing acknowledged is lost."""

import asyncio
import base64
import re
import signal
import stat
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import psutil
import pytest
from redis import Redis

from app.assignment.snapshot import decode
from app.assignment.snapshot_file import Saved
from app.cli.checks import examine
from app.core.clock import SystemClock
from app.core.settings import Settings
from tests.support.polling import wait_until
from tests.support.server import Up, up

AWAY_S = 3
ANSWER_S_MAX = 2.0
DEADLINE_S = 20
PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("outages") / "data", workers=2) as running:
        yield running


def test_without_valkey_assignments_are_unrecorded_and_feedback_is_refused_and_all_comes_back(server):
    start(server, "no-valkey")
    with server.client() as client:
        before = [assign(client, "no-valkey", f"before-{n}") for n in range(20)]
        with stopped(server, "valkey-server"):
            until, durations = time.monotonic() + AWAY_S, []
            while time.monotonic() < until:
                began = time.monotonic()
                assert not recorded(assign(client, "no-valkey", f"during-{len(durations)}"))
                durations.append(time.monotonic() - began)
            assert max(durations) < ANSWER_S_MAX
            assert len(durations) > 100, "only the first ones may wait"
            assert_unavailable(give(client, before[0], 0.5))
        wait_until(lambda: recorded(assign(client, "no-valkey", "after")))
        for one in before:
            wait_until(lambda one=one: give(client, one, 0.5).status_code == 202)
    server.wait_ready()
    assert rewards(server, "no-valkey") == (len(before), pytest.approx(0.5))


def test_without_postgres_assignments_are_recorded_and_feedback_kept_and_totals_are_exact(server):
    start(server, "no-postgres")
    data, away = server.data_dir / "postgres", server.data_dir / "away"
    with server.client() as client:
        scores = [0.25]
        assert give(client, assign(client, "no-postgres", "before"), scores[0]).status_code == 202
        data.rename(away)  # so that it stays away when it is killed
        try:
            server.part("postgres")[0].kill()
            wait_until(lambda: "postgres" in failed_checks(client))
            assert client.get("/ready").status_code == 200
            until = time.monotonic() + AWAY_S
            while time.monotonic() < until:
                assignment = assign(client, "no-postgres", f"during-{len(scores)}")
                assert recorded(assignment)
                scores.append(len(scores) % 7 / 8)
                assert give(client, assignment, scores[-1]).status_code == 202
                assert_unavailable(client.get("/experiments"))
            assert_unavailable(client.post("/experiments", json=definition("never")))
            assert_unavailable(client.patch("/experiments/no-postgres", json={"description": "x"}))
            assert_unavailable(client.post("/experiments/no-postgres/stop"))
            assert_unavailable(client.get("/experiments/no-postgres/status"))
        finally:
            away.rename(data)
        wait_until(lambda: not failed_checks(client))
        assert rewards(server, "no-postgres") == (len(scores), pytest.approx(sum(scores) / len(scores)))
        assert client.get("/experiments/never").status_code == 404


def test_ready_answers_at_once_while_postgres_hangs(server):
    with server.client() as client:
        for _ in range(4):
            client.get("/experiments").raise_for_status()  # leaves connections in the pools
        with stopped(server, "postgres"):
            answers_s = []

            def noticed() -> bool:  # an answer may be a second old
                began = time.monotonic()
                failed = failed_checks(client)
                answers_s.append(time.monotonic() - began)
                return "postgres" in failed

            wait_until(noticed)
            assert max(answers_s) < ANSWER_S_MAX
        wait_until(lambda: not failed_checks(client))


def test_every_call_that_reads_postgres_is_refused_in_time_while_it_hangs_and_all_come_back(server):
    """More calls at once than there are connections, among them every readable address and the pages."""
    start(server, "hangs")
    with server.client() as client:
        paths = [
            re.sub(r"\{[^}]+\}", lambda name: "hangs" if "key" in name[0] else "1", path)
            for path, operations in client.get("/openapi/openapi.json").json()["paths"].items()
            if "get" in operations and not path.startswith(("/changes", "/health", "/ready", "/metrics"))
        ]
        before = assign(client, "hangs", "before")

    async def ask_all() -> dict[str, httpx2.Response]:
        async with server.async_client() as client:

            async def ask(method: str, path: str) -> tuple[str, httpx2.Response]:
                return f"{method} {path}", await client.request(method, path)

            calls = [
                ask("GET", path)
                for path in [*paths, "/", "/dashboard/experiments/hangs", "/dashboard/cards/hangs"]
            ]
            calls += [ask("POST", "/experiments/hangs/stop") for _ in range(20)]
            calls.append(ask("DELETE", "/keys/1"))
            return dict(await asyncio.gather(*calls))

    environment = server.part("worker")[0].environ()
    with stopped(server, "postgres"):
        answers = asyncio.run(ask_all())
        findings = asyncio.run(examine(Settings.load(environment), SystemClock()))
        assert "does not answer" in next(one.found for one in findings if one.check == "PostgreSQL")
        with server.client() as client:
            assert recorded(assign(client, "hangs", "during")), "the hot path needs no PostgreSQL"
            assert give(client, before, 0.5).status_code == 202
    expected = [
        "GET /experiments",
        "GET /experiments/hangs/status",
        "GET /keys",
        "GET /webhooks",
        "GET /",
        "GET /dashboard/cards/hangs",
    ]
    for call in [*expected, "POST /experiments/hangs/stop", "DELETE /keys/1"]:
        assert answers[call].status_code == 503, f"{call}: {answers[call].status_code} {answers[call].text}"
    for call, answer in answers.items():
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) > 0, call
        assert answer.status_code == 503 or answer.status_code < 500, f"{call}: {answer.text}"
    with server.client() as client:
        wait_until(lambda: client.get("/experiments/hangs/status").is_success)
    assert rewards(server, "hangs") == (1, pytest.approx(0.5))


@pytest.mark.parametrize(
    ("refuse", "allow", "said"),
    [
        (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"], "maxmemory"),
        (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"], "replica"),
        (
            ["CONFIG", "SET", "min-replicas-to-write", "1"],
            ["CONFIG", "SET", "min-replicas-to-write", "0"],
            "replicas",
        ),
        (["RENAME", "wald:{1}:appended", "kept"], ["RENAME", "kept", "wald:{1}:appended"], "WRONGTYPE"),
    ],
    ids=["full", "replica", "too few replicas", "one shard"],
)
def test_a_valkey_that_refuses_events_is_not_ready_and_is_ready_again_by_itself(server, refuse, allow, said):
    start(server, f"refuses-{said}")
    url = server.part("worker")[0].environ()["WALD_VALKEY_URL"]
    with server.client() as client, Redis.from_url(url) as valkey:
        one = assign(client, f"refuses-{said}", "before")
        valkey.execute_command(*refuse)
        if said == "WRONGTYPE":
            valkey.lpush("wald:{1}:appended", "not a number")
        try:
            began = time.monotonic()
            wait_until(lambda: "valkey" in critical_failures(client))
            assert time.monotonic() - began < ANSWER_S_MAX
            assert said in critical_failures(client)["valkey"]
            if said != "WRONGTYPE":
                assert_unavailable(give(client, one, 0.5))
                assert not recorded(assign(client, f"refuses-{said}", "during"))
        finally:
            if said == "WRONGTYPE":
                valkey.delete("wald:{1}:appended")
            valkey.execute_command(*allow)
        wait_until(lambda: not critical_failures(client))
        wait_until(lambda: give(client, one, 0.5).status_code == 202)
    assert rewards(server, f"refuses-{said}") == (1, pytest.approx(0.5))


def critical_failures(client: httpx2.Client) -> dict[str, str]:
    """What keeps a server from being ready, and why."""
    answer = client.get("/ready")
    failed = {
        one["name"]: one["detail"] for one in answer.json()["checks"] if one["critical"] and not one["ok"]
    }
    assert bool(failed) == (answer.status_code == 503)
    return failed


def test_feedback_finds_the_assignment_of_a_unit_and_is_revised_down(server):
    start(server, "by-unit", unit="user", stickiness="unit")
    with server.client() as client:
        assign(client, "by-unit", "u1")
        for value in (1.0, 0.25):
            event = {"experiment": "by-unit", "unit": "u1", "signal": "score", "value": value}
            assert client.post("/feedback", json=event).status_code == 202
            assert rewards(server, "by-unit") == (1, pytest.approx(value))


def test_a_signal_after_the_horizon_changes_nothing_once_silence_has_counted(server):
    start(server, "late", reward={"signals": {"score": 0.0}, "horizon_s": 1, "silence": 0.0})
    with server.client() as client:
        silent, heard = assign(client, "late", "silent"), assign(client, "late", "heard")
        assert give(client, heard, 1.0).status_code == 202
        wait_until(lambda: rewards(server, "late") == (2, pytest.approx(0.5)))
        assert give(client, silent, 1.0).json()["accepted"] == 1
        assert give(client, heard, 0.0).json()["accepted"] == 1
        assert rewards(server, "late") == (2, pytest.approx(0.5))


@pytest.mark.parametrize(
    ("media_type", "encode"),
    [
        ("application/x-ndjson", lambda events: b"\n".join(map(msgspec.json.encode, events))),
        ("application/msgpack", msgspec.msgpack.encode),
        ("application/json", msgspec.json.encode),
    ],
)
def test_feedback_by_the_batch_in_every_encoding(server, media_type, encode):
    key = media_type.replace("/", ".")
    start(server, key)
    with server.client() as client:
        events = [
            {"assignment_id": assign(client, key, f"u{n}"), "signal": "score", "value": n / 8}
            for n in range(8)
        ]
        body = encode([*events, events[0] | {"assignment_id": "nonsense"}])
        answer = client.post("/feedback", content=body, headers={"Content-Type": media_type})
        assert answer.status_code == 202, answer.text
        assert answer.json()["accepted"] == len(events)
        assert [refused["index"] for refused in answer.json()["rejected"]] == [len(events)]
    assert rewards(server, key) == (len(events), pytest.approx(3.5 / 8))


def test_several_experiments_are_assigned_at_once(server):
    keys = ["several-1", "several-2"]
    for key in keys:
        start(server, key)
    with server.client() as client:
        answer = client.post("/assign", json={"unit": "u", "experiments": keys}).raise_for_status()
        assert [one["experiment"] for one in answer.json()["assignments"]] == keys
        assert all(recorded(one["assignment_id"]) for one in answer.json()["assignments"])
        everything = client.post("/assign", json={"unit": "u"}).raise_for_status()
        assert set(keys) <= {one["experiment"] for one in everything.json()["assignments"]}
        unknown = client.post("/assign", json={"unit": "u", "experiments": [*keys, "unknown"]})
        assert (unknown.status_code, unknown.headers["content-type"]) == (404, PROBLEM)


def test_a_unit_assigned_200_times_at_once_by_two_servers_gets_one_assignment(server):
    start(server, "strict", unit="user", stickiness="strict")

    async def first_assignments() -> Counter[str]:
        limits = httpx2.Limits(max_connections=40, max_keepalive_connections=0)
        async with server.async_client(limits=limits) as client:
            parameters = {"experiment": "strict", "unit": "the same"}
            answers = await asyncio.gather(*(client.get("/assign", params=parameters) for _ in range(200)))
        return Counter(answer.raise_for_status().json()["assignment_id"] for answer in answers)

    assert list(asyncio.run(first_assignments()).values()) == [200]


@pytest.mark.timeout(400)
def test_servers_that_start_while_both_engines_hang_serve_from_the_snapshot_file_unrecorded(server):
    start(server, "saved", unit="user", stickiness="unit")
    start(server, "from-file")
    with server.client() as client:
        made = client.post("/keys", json={"name": "to be revoked", "kind": "srv"}).raise_for_status().json()
        client.post("/experiments/from-file/kill", json={"reason": "a test"}).raise_for_status()
        client.delete(f"/keys/{made['key']['id']}").raise_for_status()
    file = server.data_dir / "snapshot" / "snapshot"
    wait_until(lambda: file.exists() and holds(file, killed="from-file", revoked=made["key"]["id"]))
    written = file.stat()
    assert stat.S_IMODE(written.st_mode) == 0o600
    with stopped(server, "valkey-server"), stopped(server, "postgres"):
        before = server.part("serve")
        for process in before:
            process.kill()
        psutil.wait_procs(before)

        def answers_again() -> bool:
            with suppress(httpx2.HTTPError), server.client() as client:
                return client.get("/assign?experiment=from-file&unit=u").status_code == 200
            return False

        wait_until(answers_again, within_s=60)
        with server.client() as client:
            answer = client.get("/assign?experiment=from-file&unit=u").json()
            assert (answer["variant"], answer["reason"]) == ("a", "DISABLED"), "a kill outlives it"
            assert not recorded(assign(client, "saved", "u1"))
            headers = {"Authorization": f"Bearer {made['secret']}"}
            revoked = client.get("/assign?experiment=saved&unit=u", headers=headers)
            assert revoked.status_code in {401, 503}
            assert_unavailable(client.get("/assign?experiment=never-heard-of&unit=u"))
            event = {"experiment": "saved", "unit": "u1", "signal": "score"}
            assert_unavailable(client.post("/feedback", json=event))
            ready = client.get("/ready")
            assert ready.status_code == 503
            detail = next(one["detail"] for one in ready.json()["checks"] if one["name"] == "snapshot")
            assert "loaded from file, last current" in detail
    server.wait_ready()
    with server.client() as client:
        wait_until(lambda: recorded(assign(client, "saved", "u1")))
        wait_until(lambda: client.get("/assign?experiment=never-heard-of&unit=u").status_code == 404)


def holds(file: Path, *, killed: str, revoked: int) -> bool:
    """Whether a snapshot file knows of a kill and of a revoked key."""
    header = len(b"WALDSNAP") + 1 + 32
    saved = msgspec.msgpack.decode(file.read_bytes()[header:], type=Saved)
    published = {one.key: one for one in map(decode, saved.experiments)}
    knows_kill = killed in saved.kills or (killed in published and published[killed].killed)
    return knows_kill and revoked not in {key.id for key in saved.access.api_keys}


def definition(key: str, **parts: Any) -> dict[str, Any]:
    variants = [{"key": "a", "control": True}, {"key": "b"}]
    reward = {"signals": {"score": 0.0}, "horizon_s": 86_400}
    return {"key": key, "variants": variants, "reward": reward, "overrides": {"probe": "b"}} | parts


def start(server: Up, key: str, **parts: Any) -> None:
    """Define and start an experiment, and wait until every server has it: any may take a new connection."""
    with server.client() as client:
        client.post("/experiments", json=definition(key, **parts)).raise_for_status()
        client.post(f"/experiments/{key}/start").raise_for_status()

    def forced() -> bool:
        with server.client() as client:
            answer = client.get("/assign", params={"experiment": key, "unit": "probe"})
            return bool(answer.is_success and answer.json()["reason"] == "FORCED")

    wait_until(lambda: all(forced() for _ in range(10)))


@contextmanager
def stopped(server: Up, engine: str) -> Iterator[None]:
    """The engine with all its processes hangs."""
    processes = [
        process for parent in server.part(engine) for process in (parent, *parent.children(recursive=True))
    ]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


def assign(client: httpx2.Client, experiment: str, unit: str) -> str:
    answer = client.get("/assign", params={"experiment": experiment, "unit": unit})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["assignment_id"])


def recorded(assignment_id: str) -> bool:
    """Whether the id says so: flag 1 in its third byte is `unrecorded`."""
    return not base64.urlsafe_b64decode(assignment_id)[2] & 1


def give(client: httpx2.Client, assignment_id: str, value: float) -> httpx2.Response:
    return client.post("/feedback", json={"assignment_id": assignment_id, "signal": "score", "value": value})


def assert_unavailable(answer: httpx2.Response) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM), answer.text
    assert int(answer.headers["retry-after"]) > 0


def failed_checks(client: httpx2.Client) -> set[str]:
    """The parts that do not work, of a server that serves all the same."""
    answer = client.get("/ready")
    assert answer.status_code == 200, answer.text
    return {check["name"].partition(" ")[0] for check in answer.json()["checks"] if not check["ok"]}


def rewards(server: Up, experiment: str) -> tuple[int, float | None]:
    """How many rewards the ledger has once it has all, and their mean."""
    variants = server.wait_no_lag(experiment)["variants"]
    n = sum(variant["rewards"] for variant in variants)
    total = sum(variant["rewards"] * variant["mean"] for variant in variants if variant["rewards"])
    return n, total / n if n else None
