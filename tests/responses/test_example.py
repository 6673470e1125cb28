"""The example application of the documentation, against a local model with OpenAI's API."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI, HTTPException

from tests.responses.conftest import Product
from tests.support.server import free_port, listening
from tests.support.serving import ADMIN_KEY

pytestmark = pytest.mark.anyio

EXAMPLE = Path(__file__).parents[2] / "docs/examples/chat_app.py"
VARIANTS = [
    {"key": "control", "control": True, "payload": {"model": "small", "system": "Be short."}},
    {"key": "other", "payload": {"model": "large", "system": "Be kind."}},
]


def fake_model() -> FastAPI:
    """Return a server that answers like a model; it fails for the question `fail`."""
    app = FastAPI()
    numbers = iter(range(1_000))

    @app.post("/v1/chat/completions")
    async def complete(body: dict[str, Any]) -> dict[str, Any]:
        question = body["messages"][-1]["content"]
        if question == "fail":
            raise HTTPException(400, "refused")
        return {
            "id": f"chatcmpl-{next(numbers)}",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": f"{body['model']}: {question}"},
                }
            ],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        }

    return app


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[str]:
    """Serve an application on a free port."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    serving = asyncio.create_task(server.serve())
    await listening(port)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await serving


def load_example() -> ModuleType:
    specification = importlib.util.spec_from_file_location("chat_app", EXAMPLE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


async def test_the_example_application_works(product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    await product.start("chat", variants=VARIANTS)
    async with running(fake_model()) as model_url:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{model_url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        monkeypatch.setenv("WALD_URL", str(product.client.base_url))
        monkeypatch.setenv("WALD_API_KEY", ADMIN_KEY)
        example = load_example()
        async with running(example.app) as url, httpx2.AsyncClient(base_url=url) as client:
            for number in range(4):
                question = {"user": f"u{number}", "text": f"question {number}"}
                answer = (await client.post("/ask", json=question)).json()
                assert answer["text"].endswith(question["text"])
                await client.post("/rate", json={"answer": answer["answer"], "thumb": number % 2 == 0})
            failed = (await client.post("/ask", json={"user": "u9", "text": "fail"})).json()
            assert failed["answer"] == ""
        await example.model.close()
        await example.wald.aclose()
    await product.settled("chat")
    responses = (await product.client.get("/experiments/chat/responses")).json()["responses"]
    assert len(responses) == 5
    assert {response["variant"]: response["model"] for response in responses}.items() <= {
        ("control", "small"),
        ("other", "large"),
    }
    assert sum(response["error"] is not None for response in responses) == 1
    assert responses[-1]["prompt"].startswith("system: Be ")
    await product.until("SELECT coalesce(sum(rewards), 0)::int FROM totals", 4)
    assert product.rows("SELECT sum(reward_sum)::bigint FROM totals") == [(2 * 10**9,)]
