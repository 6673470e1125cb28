"""Trial of a judge by `wald judge check`, against a local server of models."""

import json

import pytest

from app.cli.display.judge import checked
from app.core.errors import InvalidInput
from app.judging.judge_holder import tried
from tests.support.model_server import model_server, refuse

pytestmark = pytest.mark.anyio


async def check(definition):
    """Return whether the judge gave a score, and what the command shows."""
    result = await tried(json.dumps(definition).encode(), prompt=None, response=None)
    return result.passed, checked(result)


async def test_a_check_shows_the_label_the_mode_and_the_cost():
    async with model_server() as server:
        server.supports = {"json_object"}
        server.refuses = {"temperature"}
        definition = {
            "kind": "llm",
            "name": "correct",
            "base_url": server.url,
            "model": "m",
            "rubric": "The answer is correct.",
            "operation": {"price": {"input_usd": 1, "output_usd": 10}},
        }
        passed, output = await check(definition)
        server.always = refuse(401)
        failed, why = await check(definition)
    assert passed, output
    assert "label 3" in output
    assert "cost 0.0003 USD" in output
    assert "structured output: json_object; refused: temperature" in output
    assert "reasons: It fits." in output
    assert (failed, "no score, auth" in why) == (False, True)


async def test_a_check_refuses_a_definition_and_says_why():
    with pytest.raises(InvalidInput, match="did you mean length"):
        await check({"kind": "rule", "name": "r", "check": {"rule": "lenght"}})
