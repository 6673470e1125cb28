"""A canary that degrades, with two servers, a worker and a real receiver: back at 0 % once, and told once."""

import asyncio
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner, Result
from standardwebhooks.webhooks import Webhook

from app.cli.main import main
from tests.support.clocks import SettableClock
from tests.support.polling import eventually
from tests.support.receiver import receiver
from tests.support.server import Up, up

pytestmark = pytest.mark.anyio

ERROR_RATE = {
    "key": "error_rate",
    "measure": {"kind": "proportion", "signal": "error", "silence": 0},
    "role": "guardrail",
    "direction": "lower",
    "margin": {"size": 0.02},
}
DEFINITION = {
    "key": "answers",
    "variants": [{"key": "v1", "control": True}, {"key": "v2"}],
    "policy": {"kind": "fixed", "weights": {"v1": 1, "v2": 0}},
    "metrics": [ERROR_RATE],
}
ROLLOUT = {
    "experiment": "answers",
    "canaries": ["v2"],
    "guardrails": ["error_rate"],
    "stages": [{"share": 0.5, "duration_s": 3_600}, {"share": 1}],
}


class Product:
    """One of a hundred requests fails; of the canary's two of five from ten minutes on, by its clock."""

    DEGRADES_AFTER = timedelta(minutes=10)
    PACE = timedelta(seconds=6)

    def __init__(self, client: httpx2.AsyncClient, clock: SettableClock) -> None:
        self._client, self._clock = client, clock
        self._degrades_at = clock.now() + self.DEGRADES_AFTER
        self._rng = random.Random(20260101)

    @property
    def is_degraded(self) -> bool:
        return self._clock.now() >= self._degrades_at

    async def serve(self, n: int) -> None:
        """A request every six seconds, and the feedback to all of them."""
        events = []
        for _ in range(n):
            asked = {"experiment": "answers", "unit": str(self._rng.random())}
            given = (await self._client.get("/assign", params=asked)).json()
            rate = 0.4 if given["variant"] == "v2" and self.is_degraded else 0.01
            about = {"assignment_id": given["assignment_id"], "source": "automated"}
            events.append(about | {"signal": "error", "value": float(self._rng.random() < rate)})
            self._clock.forward(self.PACE.total_seconds())
        answer = await self._client.post("/feedback", json=events)
        assert answer.json()["accepted"] == n, answer.text


async def shares(client: httpx2.AsyncClient) -> set[tuple[str, float]]:
    """What many connections, and so both servers, draw from."""
    answers = await asyncio.gather(
        *(
            client.get(
                "/assign", params={"experiment": "answers", "unit": str(n)}, headers={"Connection": "close"}
            )
            for n in range(40)
        )
    )
    return {(one.json()["variant"], one.json()["propensity"]) for one in answers}


def wald(server: Up, *arguments: str) -> Result:
    """A command, in a thread: it has an event loop of its own."""
    command = [*arguments, "--url", server.url, "--key", server.key]
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(CliRunner().invoke, main, command).result()


async def test_a_canary_that_degrades_is_taken_back_everywhere_once_and_everyone_is_told(tmp_path):
    async with receiver() as hook:
        environment = {
            "WALD_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
            "WALD_WEBHOOK_ALLOWED_PORTS": str(hook.port),
        }
        with up(tmp_path / "data", workers=2, environment=environment) as server:
            async with server.async_client() as client:
                made = await client.post("/webhooks", json={"url": hook.url, "events": ["rollout.*"]})
                assert made.status_code == 201, made.text
                (await client.post("/experiments", json=DEFINITION)).raise_for_status()
                (await client.post("/experiments/answers/start")).raise_for_status()
                begun = await client.post("/rollouts", json=ROLLOUT)
                assert begun.status_code == 201, begun.text
                path = f"/rollouts/{begun.json()['id']}"

                async def is_served() -> bool:
                    return {share for _, share in await shares(client)} == {0.5}

                await eventually(is_served, "servers hear of the stage")
                product = Product(client, SettableClock())
                await product.serve(100)
                assert product.is_degraded, "ten minutes have passed"
                assert (await client.get(path)).json()["state"]["kind"] == "running"
                for worker in server.part("worker"):
                    worker.send_signal(signal.SIGKILL)
                await product.serve(200)

                async def is_rolled_back() -> bool:
                    return (await client.get(path)).json()["state"]["kind"] == "rolled_back"

                await eventually(is_rolled_back, "harm is proven")

                async def is_gone() -> bool:
                    return await shares(client) == {("v1", 1.0)}

                await eventually(is_gone, "every server answers the control")

                async def told() -> list[Any]:
                    return [one for one in hook.received if one.json["type"] == "rollout.rolled_back"]

                message = (await eventually(told, "the receiver is told"))[0]
                verified = Webhook(made.json()["secret"]).verify(message.body, message.headers)
                assert verified["data"]["variant"] == "v2"
                assert verified["data"]["notice"]["guardrails"][0]["verdict"] == "harm"

                decisions = (await client.get(f"{path}/decisions")).json()["decisions"]
                assert [one["decision"]["kind"] for one in decisions] == ["started", "roll_back"]
                receipt = (await client.get(f"{path}/decisions/2")).json()
                assert receipt["differs"] == []
                assert receipt["receipt"]["examples"]
                assert len(await told()) == 1

                gate = (await client.get(f"{path}/gate")).json()
                assert (gate["proceed"], gate["roll_back"], gate["value"]) == (False, True, -1)
                flagger = {"name": "answers", "namespace": "prod", "phase": "Progressing", "metadata": {}}
                assert (await client.post(f"{path}/gate/rollback", json=flagger)).status_code == 200
                refused = await client.post(f"{path}/gate/confirm", json=flagger)
                assert refused.status_code == 409
                assert refused.headers["content-type"] == "application/problem+json"

                again = await client.post("/rollouts", json=ROLLOUT)
                assert again.status_code == 400
                assert again.json()["errors"][0]["field"] == "reason"

            watched = wald(server, "rollout", "watch", "1")
            assert watched.exit_code == 1, watched.stderr
            assert "rolled back in stage 1" in watched.stdout
            explained = wald(server, "explain", "1/2")
            assert explained.exit_code == 0, explained.stderr
            assert "bit for bit" in explained.stdout
            assert wald(server, "rollout", "gate", "1").exit_code == 1
            assert "rolled back" in wald(server, "rollout", "list").stdout


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"canaries": []}, "$.canaries"),
        ({"canaries": ["nobody"]}, "canaries[0]"),
        ({"guardrails": ["judge_score"]}, "guardrails[0]"),
        ({"stages": [{"share": 1.5}]}, "$.stages[0].share"),
        ({"stages": [{"share": 1.0}]}, "stages[0].share"),
        ({"alpha": 0.9}, "$.alpha"),
        ({"experiment": "nobody"}, "experiment"),
        ({"surprise": 1}, "$.surprise"),
    ],
)
async def test_a_plan_that_makes_no_sense_is_refused_by_its_field(running, body, field):
    async with running.async_client() as client:
        answer = await client.post("/rollouts", json=ROLLOUT | body)
        assert answer.status_code in {400, 404, 422}, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert field.removeprefix("$.") in answer.text


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with up(tmp_path_factory.mktemp("plans") / "data") as server, server.client() as client:
        client.post("/experiments", json=DEFINITION).raise_for_status()
        client.post("/experiments/answers/start").raise_for_status()
        yield server


def layered(key: str, start: float, end: float) -> dict[str, Any]:
    layer = {"key": "answers", "start": start, "end": end}
    return DEFINITION | {"key": key, "layer": layer, "stickiness": "unit", "unit": "user"}


async def test_two_rollouts_in_one_layer_have_nothing_to_do_with_each_other(running):  # noqa: C901 - one story
    """Each with its own units and its own control; one is rolled back, and no unit of the other moves."""
    rng = random.Random(20260101)
    async with running.async_client() as client:
        for key, start, end in (("left", 0, 0.5), ("right", 0.5, 1), ("third", 0.4, 0.6)):
            (await client.post("/experiments", json=layered(key, start, end))).raise_for_status()
        for key in ("left", "right"):
            (await client.post(f"/experiments/{key}/start")).raise_for_status()
        refused = await client.post("/experiments/third/start")
        assert refused.status_code == 409
        assert "left holds [0, 0.5) of answers; right holds [0.5, 1) of answers" in refused.json()["detail"]
        assert (await client.get("/layers/answers")).json()["free"] == []

        created = wald(
            running, "rollout", "create", "left", "--canary", "v2", "--guardrail", "error_rate",
            "--stage", "0.5:3600", "--stage", "1", "--draft",
        )  # fmt: skip
        assert created.exit_code == 0, created.stderr
        left = (await client.get("/rollouts", params={"experiment": "left"})).json()["rollouts"][0]["id"]
        assert (await client.get(f"/rollouts/{left}")).json()["state"] == {"kind": "draft"}
        started = wald(running, "rollout", "start", str(left))
        assert started.exit_code == 0, started.stderr
        right = (await client.post("/rollouts", json=ROLLOUT | {"experiment": "right"})).json()["id"]
        assert (await client.delete(f"/rollouts/{right}")).status_code == 409

        async def assigned(unit: int) -> list[dict[str, Any]]:
            asked = {"unit": str(unit), "experiments": ["left", "right"]}
            return (await client.post("/assign", json=asked)).json()["assignments"]

        async def are_served() -> bool:
            return all([0.5 in {one["propensity"] for one in await assigned(n)} for n in range(6)])

        await eventually(are_served, "servers hear of both stages")
        events, before = [], {}
        for unit in range(700):
            answers = await assigned(unit)
            mine = [one for one in answers if one["reason"] == "SPLIT"]
            assert len(mine) == 1, "every unit is in one of both"
            assert {one["reason"] for one in answers} == {"SPLIT", "NOT_TARGETED"}
            before[unit] = mine[0]["experiment"], mine[0]["variant"]
            bad = 0.4 if before[unit] == ("left", "v2") else 0.01
            about = {"assignment_id": mine[0]["assignment_id"], "source": "automated"}
            events.append(about | {"signal": "error", "value": float(rng.random() < bad)})
        accepted = await client.post("/feedback", json=events)
        assert accepted.json()["accepted"] == len(events)

        async def is_rolled_back() -> bool:
            return (await client.get(f"/rollouts/{left}")).json()["state"]["kind"] == "rolled_back"

        await eventually(is_rolled_back, "harm is proven on the left")

        decided = (await client.get(f"/rollouts/{left}/decisions/2")).json()["receipt"]
        assert len(set(decided["examples"])) == 10, "of units that are sticky too"

        of_left = next(unit for unit, (key, _) in before.items() if key == "left")

        async def is_gone() -> bool:
            return (await assigned(of_left))[0]["propensity"] == 1.0

        await eventually(is_gone, "servers hear of it")
        found = (await client.get(f"/rollouts/{right}")).json()
        assert found["state"]["kind"] == "running"
        assert found["looked"]["reading"]["guardrails"][0]["verdict"] != "harm"
        assert (await client.get("/experiments/right")).json()["held"] == {"v2": 0.5}
        for unit, (key, variant) in before.items():
            if key == "right":
                assert (await assigned(unit))[1]["variant"] == variant

        async def is_shown() -> bool:
            text = (await client.get("/metrics")).text
            return (
                'wald_rollbacks_total{reason="harm"} 1.0' in text
                and 'wald_guardrail_state{experiment="left",guardrail="error_rate",variant="v2"} NaN' in text
                and 'wald_rollouts{state="rolled_back"} 1.0' in text
            )

        await eventually(is_shown, "metrics show it")


async def test_gates_answer_the_requests_of_argo_and_flagger(running):
    """Argo's web provider gets JSON with its own headers; Flagger posts its documented body."""
    async with running.async_client() as client:
        begun = await client.post("/rollouts", json=ROLLOUT)
        assert begun.status_code == 201, begun.text
        path = f"/rollouts/{begun.json()['id']}/gate"
        answer = await client.get(path, headers={"Content-Type": "application/json"})
        assert answer.headers["content-type"] == "application/json"
        assert (answer.json()["value"], answer.json()["state"]) == (0, "running")
        body = {
            "name": "answers",
            "namespace": "prod",
            "phase": "Progressing",
            "checksum": "85d557f47b",
            "metadata": {"a": "b"},
        }
        for hook, status in (("confirm", 409), ("rollback", 409)):
            assert (await client.post(f"{path}/{hook}", json=body)).status_code == status
        assert (await client.get(path, params={"share": 0.5})).json()["value"] == 1
        assert (await client.post(f"{path}/confirm", params={"share": 0.5}, json=body)).status_code == 200
        assert (await client.get(path, params={"share": 2})).status_code == 400
        number = str(begun.json()["id"])
        assert wald(running, "rollout", "gate", number).exit_code == 3
        assert wald(running, "rollout", "gate", number, "--share", "0.5").exit_code == 0
        assert wald(running, "rollout", "gate", number, "--share", "2").exit_code == 2
        assert wald(running, "rollout", "gate", "999999").exit_code == 4
        assert wald(running, "rollout", "watch", "999999").exit_code == 4
        done = await client.post(path.removesuffix("gate") + "rollback", json={"reason": "by hand"})
        assert done.status_code == 200
        assert (await client.post(f"{path}/rollback", json=body)).status_code == 200
        assert (await client.post(f"{path}/confirm", json=body)).status_code == 409
        assert (await client.get(path)).json()["value"] == -1
