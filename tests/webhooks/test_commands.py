"""`wald webhooks`, on a real database."""

import asyncio
import re

import pytest
from click.testing import CliRunner

from app.cli.main import main

pytestmark = pytest.mark.anyio

URL = "https://hooks.example/wald"


@pytest.fixture
def wald(database_url, valkey_url):
    """Runs a command; what it printed and its exit status."""

    async def wald(*arguments):
        flags = ["--database-url", database_url, "--valkey-url", valkey_url]
        # In a thread: the command has an event loop of its own.
        result = await asyncio.to_thread(CliRunner().invoke, main, ["webhooks", *arguments, *flags])
        return result.stdout, result.exit_code

    return wald


async def test_the_life_of_a_webhook(wald, webhooks):
    secret, status = await wald("add", URL, "--event", "rollout.*", "--description", "[on] call")
    assert status == 0
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/=]{44}\n", secret)
    (endpoint,) = await webhooks.list()
    assert (endpoint.url, endpoint.events) == (URL, ("rollout.*",))
    number = str(endpoint.id)
    rotated, _ = await wald("rotate", number)
    assert rotated != secret
    assert "on its way" in (await wald("ping", number))[0]
    (delivery,) = (await webhooks.deliveries(endpoint.id, after=None, limit=1))[0]
    assert delivery.type == "webhook.ping"
    assert str(delivery.id) in (await wald("deliveries", number))[0]
    assert "is sent again" in (await wald("redeliver", str(delivery.id)))[0]
    listed, _ = await wald("list")
    assert "whsec_" not in listed
    assert (await wald("remove", number))[1] == 0
    assert await webhooks.list() == []


async def test_errors_explain_the_problem_in_words(wald):
    assert (await wald("add", "https://10.0.0.1/"))[1] == 1
    assert (await wald("remove", "7"))[1] == 1
    assert (await wald("redeliver", "7"))[1] == 1
