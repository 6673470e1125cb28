"""A chat application with Wald: each answer is assigned, generated, recorded and rated.

    OPENAI_BASE_URL=… OPENAI_API_KEY=… WALD_URL=… WALD_API_KEY=… uvicorn chat_app:app

`OPENAI_BASE_URL` is any server with OpenAI's API. The experiment `chat` has variants whose payload
is `{"model": …, "system": …}`; without Wald the application uses `DEFAULT`.
"""

import os
import time
from typing import Any

import httpx2
from fastapi import BackgroundTasks, FastAPI
from openai import AsyncOpenAI, OpenAIError
from pydantic import BaseModel

DEFAULT = {"model": "small", "system": "Answer in one sentence."}
app = FastAPI()
model = AsyncOpenAI()
wald = httpx2.AsyncClient(
    base_url=os.environ["WALD_URL"],
    headers={"Authorization": f"Bearer {os.environ['WALD_API_KEY']}"},
    timeout=2,
)


class Question(BaseModel):
    user: str
    text: str


class Rating(BaseModel):
    answer: str  # the id that /ask returned
    thumb: bool


async def tell(path: str, body: dict[str, Any]) -> None:
    for _ in range(3):  # sending again is safe: Wald counts each response and signal once
        try:
            if (await wald.post(path, json=body)).status_code < 500:
                return
        except httpx2.HTTPError:
            continue


@app.post("/ask")
async def ask(question: Question, after: BackgroundTasks) -> dict[str, str]:
    try:
        query = {"experiment": "chat", "unit": question.user}
        assigned = (await wald.get("/assign", params=query)).raise_for_status().json()
    except httpx2.HTTPError:
        assigned = {"payload": DEFAULT}
    chosen = assigned["payload"]
    messages = [{"role": "system", "content": chosen["system"]}, {"role": "user", "content": question.text}]
    record: dict[str, Any] = {"prompt": messages, "model": chosen["model"]}
    began = time.perf_counter()
    try:
        done = await model.chat.completions.create(model=chosen["model"], messages=messages)
        text, identity = done.choices[0].message.content or "", done.id
        record |= {"response": text, "response_id": identity, "finish_reason": done.choices[0].finish_reason}
        if done.usage:
            record |= {"tokens_in": done.usage.prompt_tokens, "tokens_out": done.usage.completion_tokens}
    except OpenAIError as error:
        text, identity = "Sorry, that did not work.", ""
        record["error"] = str(error)
    record["latency_ms"] = (time.perf_counter() - began) * 1_000
    if "assignment_id" in assigned:
        after.add_task(tell, "/responses", record | {"assignment_id": assigned["assignment_id"]})
    return {"text": text, "answer": identity}


@app.post("/rate")
async def rate(rating: Rating, after: BackgroundTasks) -> None:
    signal = "thumbs_up" if rating.thumb else "thumbs_down"
    after.add_task(tell, "/feedback", {"experiment": "chat", "response_id": rating.answer, "signal": signal})
