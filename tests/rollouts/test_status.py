"""A rollout is visible where people look at its experiment, also once it has ended."""

from collections.abc import AsyncIterator

import httpx2
import pytest

from app.access.model import Scope
from app.analysis.routes import ROUTES as STATUS
from app.analysis.service import AnalysisService
from app.analysis.store import AnalysisStore
from app.dashboard.routes import ROUTES as PAGES
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from app.quality.service import QualityService
from app.quality.store import QualityStore
from app.rollouts.routes import ROUTES
from tests.rollouts.stored import come, watermark
from tests.support.api import KEYS, MASTER_KEY, api, bearer, keyring_of_scopes

pytestmark = pytest.mark.anyio

PLAN = {"experiment": "summary", "canaries": ["new"], "guardrails": ["error_rate"]}


@pytest.fixture
async def client(engine, clock, rollouts, experiment) -> AsyncIterator[httpx2.AsyncClient]:
    async def leave_it_due(experiment_id: int) -> None: ...

    async def no_lag() -> int:
        return 0

    experiments = ExperimentService(ExperimentStore(engine), clock, leave_it_due)
    analysis = AnalysisService(experiments, AnalysisStore(engine), no_lag, rollouts=rollouts.statuses)
    parts = {
        "experiment_service": experiments,
        "analysis": analysis,
        "quality": QualityService(experiments, QualityStore(engine)),
        "rollout_service": rollouts,
    }
    async with api([*STATUS, *PAGES, *ROUTES], parts, keyring_of_scopes()) as client:
        client.headers.update(bearer(MASTER_KEY))
        yield client


async def shown(client) -> tuple[list[dict], str]:
    """The rollouts of the status, and the experiment's page."""
    reads = bearer(KEYS[Scope.READ])
    status = await client.get("/experiments/summary/status", headers=reads)
    page = await client.get("/dashboard/experiments/summary", headers=reads)
    assert status.status_code == page.status_code == 200
    return status.json()["rollouts"], page.text


async def test_an_experiment_without_a_rollout_shows_none(client):
    rollouts, page = await shown(client)
    assert rollouts == []
    assert "Rollouts" not in page


async def test_a_rollout_is_shown_from_draft_to_completion(client, clock):
    draft = (await client.post("/rollouts", json=PLAN | {"start": False})).json()
    (row,), page = await shown(client)
    assert (row["id"], row["state"], row["stage"], row["share"]) == (draft["id"], "draft", None, 0.0)
    await client.post(f"/rollouts/{draft['id']}/start")
    (row,), page = await shown(client)
    assert (row["state"], row["stage"], row["stages"], row["share"]) == ("running", 0, 4, 0.01)
    assert "1 of 4" in page
    for _ in range(3):
        await client.post(f"/rollouts/{draft['id']}/advance", json={"reason": "seen in staging"})
    (row,), page = await shown(client)
    assert (row["state"], row["canaries"], row["share"]) == ("completed", ["new"], 1.0)
    assert row["ended_at"] is not None
    assert row["reason"] == "the canaries have 100% of the traffic for good"
    for text in ("<b>completed</b>", row["reason"], f"{clock.now():%Y-%m-%d %H:%M}"):
        assert text in page


async def test_a_rollback_is_shown_with_its_reason_before_the_rollout_that_follows(
    client, rollouts, engine, clock
):
    first = (await client.post("/rollouts", json=PLAN)).json()
    answer = await ExperimentStore(engine).find("summary")
    await come(engine, answer, 0, units=4_000, errors=40, latency=1.0)
    await come(engine, answer, 1, units=400, errors=400, latency=1.0)
    await watermark(engine, clock.now())
    assert await rollouts.look(first["id"])
    (row,), page = await shown(client)
    assert (row["state"], row["share"]) == ("rolled_back", 0.0)
    assert row["reason"].startswith("error_rate of new is proven worse than the control")
    assert "<b>rolled back</b>" in page
    assert row["reason"] in page
    await client.post("/rollouts", json=PLAN | {"reason": "fixed <b>now</b>"})
    both, page = await shown(client)
    assert [row["state"] for row in both] == ["running", "rolled_back"]
    assert "<b>now</b>" not in page


async def test_the_request_of_a_completed_rollout_is_answered_409_with_the_way_out(client):
    made = (await client.post("/rollouts", json=PLAN)).json()
    for _ in range(3):
        await client.post(f"/rollouts/{made['id']}/advance", json={"reason": "seen in staging"})
    repeated = await client.post("/rollouts", json=PLAN)
    assert repeated.status_code == 409
    assert repeated.headers["content-type"].startswith("application/problem+json")
    assert f'add "after": {made["id"]}' in repeated.json()["detail"]
    (row,), _ = await shown(client)
    assert row["share"] == 1.0
    assert (await client.post("/rollouts", json=PLAN | {"after": made["id"]})).status_code == 201
    assert (await client.post("/rollouts", json=PLAN | {"after": 0})).status_code == 400
