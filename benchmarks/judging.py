"""Figures of judging: what judges cost, and what their scores are worth on real data.

    make bench-judging

Rule and local judges read every response, so they must score at least 200 responses a second per
core, all of them together. A judge that asks an endpoint must keep at least 64 calls in flight with
less than a fifth of a core. The endpoint is a local server in a process of its own that answers
after a fixed time: 2 s for a chat model, 0.3 s for a decision model.

References from the same run: the same judges on one response at a time, which shows what batches
bring, and the plain clients (`openai` with its typed results, `httpx2`), which bound nothing and
retry nothing. Calls of the plain clients are the floor that we cannot beat by much.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple
from uuid import UUID

import httpx2
import msgspec
from openai import AsyncOpenAI

from app.judging.judges import decisions
from app.judging.judges.endpoint_client import EndpointClient
from app.judging.judges.judge import Judge
from app.judging.judges.model import (
    DecisionVersion,
    Judged,
    JudgedText,
    JudgeVersion,
    LlmVersion,
    LocalVersion,
    Operation,
    RuleVersion,
)
from app.judging.judges.rules import (
    Length,
    NoPersonalData,
    NoRefusal,
    NoRepetition,
    NotEmpty,
    SpokenLanguage,
    ValidJson,
)
from app.judging.judges.service import open_judge
from benchmarks import harness

RESPONSE_CHARACTERS: Final = 4_000
RESPONSES: Final = 384
ROUNDS: Final = 3
IN_FLIGHT: Final = 64
LLM_LATENCY_S: Final = 2.0
DECISION_LATENCY_S: Final = 0.3
WAVES: Final = 5
RESPONSES_A_SECOND_MIN: Final = 200
CORE_SHARE_MAX: Final = 0.2

_RULES: Final = (
    NotEmpty(),
    NoRefusal(),
    Length(characters_max=20_000),
    ValidJson(),
    NoRepetition(),
    SpokenLanguage(),
    NoPersonalData(),
)
_LOCAL: Final = ("relevance", "sentiment", "profanity")
_PROSE: Final = Path(__file__).parents[1] / "docs"


class Cost(NamedTuple):
    """Responses a second of one core, by the processor time of all threads."""

    name: str
    a_second: float
    one_by_one: float


class Calls(NamedTuple):
    """Calls in flight on average, and the share of a core that they took."""

    name: str
    in_flight: float
    core_share: float
    milliseconds: float


def main() -> None:
    """Print all tables."""
    harness.pin(harness.LOAD_CORE)
    every_response()
    in_flight()


def every_response() -> dict[str, float]:
    """Measure the judges that read every response. Returns responses a second per core."""
    items = responses(RESPONSES)
    costs = asyncio.run(_costs(items))
    together = 1 / sum(1 / cost.a_second for cost in costs)
    one_by_one = 1 / sum(1 / cost.one_by_one for cost in costs)
    rows = [
        [cost.name, f"{cost.a_second:,.0f}", f"{cost.one_by_one:,.0f}"]
        for cost in (*costs, Cost("all of them", together, one_by_one))
    ]
    title = f"Judges of every response ({RESPONSE_CHARACTERS:,} characters), responses/s per core"
    harness.show(title, ["judge", "batches", "one by one"], rows)
    print(f"all of them: {_passed(together >= RESPONSES_A_SECOND_MIN)} (at least {RESPONSES_A_SECOND_MIN})\n")
    return {cost.name: cost.a_second for cost in costs} | {"all": together}


def in_flight() -> dict[str, float]:
    """Measure the judges that ask an endpoint. Returns the share of a core of each."""
    rows: list[Calls] = []
    with harness.server("tests.support.model_server", str(LLM_LATENCY_S)) as port:
        rows += asyncio.run(_llm_calls(f"http://127.0.0.1:{port}/v1"))
    with harness.server("tests.support.model_server", str(DECISION_LATENCY_S)) as port:
        rows += asyncio.run(_decision_calls(f"http://127.0.0.1:{port}/v1"))
    harness.show(
        f"{IN_FLIGHT} calls in flight in one worker",
        ["calls", "in flight", "share of a core", "ms of a core per call"],
        [
            [row.name, f"{row.in_flight:.1f}", f"{row.core_share:.1%}", f"{row.milliseconds:.2f}"]
            for row in rows
        ],
    )
    judges = [row for row in rows if row.name in {"llm", "decision"}]
    passed = all(row.core_share < CORE_SHARE_MAX and row.in_flight > IN_FLIGHT * 0.9 for row in judges)
    print(f"llm and decision: {_passed(passed)} (less than {CORE_SHARE_MAX:.0%} of a core)\n")
    return {row.name: row.core_share for row in rows}


def responses(count: int) -> list[JudgedText]:
    """Return responses of English prose, from the pages of our own documentation."""
    paragraphs = [
        paragraph
        for page in sorted(_PROSE.rglob("*.md"))
        for paragraph in page.read_text().split("\n\n")
        if len(paragraph) > 80 and not paragraph.startswith(("|", "```", "<"))
    ]
    chance = Random(20261201)
    items = []
    for number in range(count):
        text = "\n\n".join(chance.sample(paragraphs, 40))[:RESPONSE_CHARACTERS]
        prompt = chance.choice(paragraphs)[:400]
        items.append(JudgedText(response_key=UUID(int=number), response=text, prompt=prompt))
    return items


async def _costs(items: Sequence[JudgedText]) -> list[Cost]:
    rules = [RuleVersion(name=str(rule.__struct_config__.tag), check=rule) for rule in _RULES]
    models = [LocalVersion(name=model, model=model) for model in _LOCAL]
    versions: list[JudgeVersion] = [*rules, *models]
    http = EndpointClient()
    costs = []
    for version in versions:
        judge = open_judge(version, lambda _: None, http)
        await judge.score_many(items[:64])  # load the model
        batches = [await _cpu_s(judge.score_many(items)) for _ in range(ROUNDS)]
        few = items[:64]
        single = await _cpu_s(_one_by_one(judge, few))
        costs.append(Cost(version.name, len(items) / min(batches), len(few) / single))
        await judge.aclose()
    await http.aclose()
    return costs


async def _one_by_one(judge: Judge, items: Sequence[JudgedText]) -> None:
    for item in items:
        await judge.score(item)


async def _cpu_s(work: Awaitable[Any]) -> float:
    started = time.process_time()
    await work
    return time.process_time() - started


async def _llm_calls(url: str) -> list[Calls]:
    version = LlmVersion(
        name="correct",
        base_url=url,
        model="m",
        rubric="The response answers the prompt correctly and completely.",
        operation=Operation(concurrency=IN_FLIGHT),
    )
    items = responses(IN_FLIGHT * WAVES)
    plain = AsyncOpenAI(base_url=url, api_key="none", max_retries=0)

    async def reference(item: JudgedText) -> None:
        await plain.chat.completions.create(
            model="m", messages=[{"role": "user", "content": f"{item.prompt}\n{item.response}"}]
        )

    judge = await _judge_calls("llm", version, items)
    async with plain:
        return [judge, await _calls("plain openai", reference, items)]


async def _decision_calls(url: str) -> list[Calls]:
    version = DecisionVersion(
        name="relevant",
        base_url=url,
        model="m",
        statement="The response answers the prompt.",
        operation=Operation(concurrency=IN_FLIGHT),
    )
    items = responses(IN_FLIGHT * WAVES * 6)
    asked = decisions.question(version)

    async with httpx2.AsyncClient(limits=httpx2.Limits(max_connections=IN_FLIGHT)) as plain:

        async def reference(item: JudgedText) -> None:
            body = decisions.request_body(version, decisions.state(item), asked)
            answer = await plain.post(decisions.url(url), content=body)
            msgspec.json.decode(answer.content)

        judge = await _judge_calls("decision", version, items)
        return [judge, await _calls("plain httpx2", reference, items)]


async def _judge_calls(
    name: str, version: LlmVersion | DecisionVersion, items: Sequence[JudgedText]
) -> Calls:
    http = EndpointClient()
    judge = open_judge(version, lambda _: None, http)

    async def score(item: JudgedText) -> None:
        assert isinstance(await judge.score(item), Judged)

    calls = await _calls(name, score, items)
    await http.aclose()
    return calls


async def _calls(
    name: str, call: Callable[[JudgedText], Awaitable[None]], items: Sequence[JudgedText]
) -> Calls:
    """Keep the places filled. Calls in flight are the sum of their times over the whole time."""
    await asyncio.gather(*(call(item) for item in items[:IN_FLIGHT]))  # opens the connections
    places = asyncio.Semaphore(IN_FLIGHT)

    seconds = 0.0

    async def placed(item: JudgedText) -> None:
        nonlocal seconds
        async with places:
            begun = time.perf_counter()
            await call(item)
            seconds += time.perf_counter() - begun

    cpu_s, started = time.process_time(), time.perf_counter()
    await asyncio.gather(*(placed(item) for item in items))
    cpu_s, elapsed_s = time.process_time() - cpu_s, time.perf_counter() - started
    return Calls(name, seconds / elapsed_s, cpu_s / elapsed_s, cpu_s / len(items) * 1_000)


def _passed(passed: bool) -> str:  # noqa: FBT001 - a value to show
    return "reached" if passed else "MISSED"


if __name__ == "__main__":
    main()
