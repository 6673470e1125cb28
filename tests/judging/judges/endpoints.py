"""Judges with an endpoint, opened for tests: short waits, fixed chance."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from uuid import UUID

from app.judging.judges.endpoint_client import EndpointClient
from app.judging.judges.labels import LabelSet
from app.judging.judges.model import DecisionVersion, JudgedText, LlmVersion, Operation, PluginVersion
from app.judging.judges.prices import Price
from app.judging.judges.retry_client import Waits
from app.judging.judges.service import open_judge

ITEM = JudgedText(
    response_key=UUID(int=1),
    prompt="What is the capital of France?",
    response="The capital of France is Paris.",
    metadata={"topic": "geography", "turn": 2},
    model="secret-model-name",
)
OPERATION = Operation(timeout_s=5.0, attempts_max=3, price=Price(input_usd=1.0, output_usd=10.0))
WAITS = Waits(first_s=0.001, longest_s=0.2)


def llm(url: str, **fields) -> LlmVersion:
    defaults = {"rubric": "The answer is correct.", "labels": LabelSet(), "operation": OPERATION}
    return LlmVersion(**{"name": "correct", "base_url": url, "model": "m", **defaults, **fields})


def decision(url: str, **fields) -> DecisionVersion:
    defaults = {"statement": "The response answers the prompt.", "operation": OPERATION}
    return DecisionVersion(**{"name": "relevant", "base_url": url, "model": "m", **defaults, **fields})


def plugin(url: str, **fields) -> PluginVersion:
    return PluginVersion(**{"name": "mine", "url": url, "operation": OPERATION, **fields})


def credentials(name: str) -> str | None:
    return {"account": "hunter2-is-the-secret"}.get(name)


@asynccontextmanager
async def opened(version, **options) -> AsyncIterator:
    """Open a judge with connections of its own."""
    http = EndpointClient()
    judge = open_judge(version, credentials, http, random=Random(1), waits=WAITS, **options)
    try:
        yield judge
    finally:
        await judge.aclose()
        await http.aclose()
