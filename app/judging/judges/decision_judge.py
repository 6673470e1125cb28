"""Judges of the kind `decision`: a decision model behind `POST /v1/systemone`."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from app.judging.judges import decisions
from app.judging.judges.decisions import PAIR_OPTIONS, Answered
from app.judging.judges.endpoint_client import NoAnswer
from app.judging.judges.failures import Failure, failure, too_long
from app.judging.judges.model import (
    Attempt,
    DecisionVersion,
    Judged,
    JudgedText,
    Judgement,
    Preference,
    Unscored,
)
from app.judging.judges.pairs import PREFERENCES, Preferred, preference
from app.judging.judges.retry_client import Called, RetryingClient, Usage, not_answered


class DecisionJudge:
    """A judge that asks a decision model one question and keeps the probabilities."""

    def __init__(self, version: DecisionVersion, calls: RetryingClient) -> None:
        self.version = version
        self._calls = calls
        self._url = decisions.url(version.base_url)

    async def score(self, item: JudgedText) -> Judgement:
        """Return the expected place between worst and best, or why there is none."""
        keys = decisions.options(self.version)
        answer, attempts = await self._ask(decisions.state(item), decisions.question(self.version), keys)
        if isinstance(answer, Unscored):
            return answer
        probabilities = answer.probabilities
        best = max(range(len(keys)), key=probabilities.__getitem__)
        return Judged(
            score=decisions.expected_place(probabilities),
            label=self.version.label_set.lowest + best,
            probability=min(1.0, probabilities[-1]),
            attempts=attempts,
        )

    async def score_many(self, items: Sequence[JudgedText]) -> list[Judgement]:
        """Return the score of each response, in order."""
        return list(await asyncio.gather(*(self.score(item) for item in items)))

    async def compare(self, a: JudgedText, b: JudgedText) -> Preference | Unscored:
        """Return which response is better, asked in both orders; a conflict is a tie."""
        return preference(*await asyncio.gather(self._prefer(a, b), self._prefer(b, a)))

    async def aclose(self) -> None:
        """Do nothing: the connections belong to the `EndpointClient`."""

    async def _prefer(self, first: JudgedText, second: JudgedText) -> Preferred | Unscored:
        texts, asked = decisions.pair_state(first, second), decisions.pair_question(self.version)
        answer, attempts = await self._ask(texts, asked, PAIR_OPTIONS)
        if isinstance(answer, Unscored):
            return answer
        of_each = dict(zip(PAIR_OPTIONS, answer.probabilities, strict=True))
        expected = sum(PREFERENCES[option] * probability for option, probability in of_each.items())
        chosen = max(of_each, key=of_each.__getitem__)
        return Preferred(PREFERENCES[chosen], attempts=attempts, probability=min(1.0, expected))

    async def _ask(
        self, texts: Mapping[str, str], asked: Mapping[str, Any], keys: Sequence[str]
    ) -> tuple[Answered | Unscored, tuple[Attempt, ...]]:
        if (failed := too_long(self.version.characters_max, *texts.values())) is not None:
            return Unscored(reason=failed.reason, detail=failed.detail), ()
        body = decisions.request_body(self.version, texts, asked)
        return await self._calls.measure(lambda: self._call(body, asked["type"], keys), Answered)

    async def _call(self, body: bytes, kind: str, keys: Sequence[str]) -> Called:
        usage = Usage(None, None, len(body), 0)
        try:
            answer = await self._calls.post(self._url, body)
        except NoAnswer as error:
            return not_answered(error, usage)
        if answer.status // 100 != 2:
            failed = failure(answer.status, answer.headers, answer.body, now=self._calls.clock.now())
            return Called(answer.status, usage, failed, billed=False)
        outcome = decisions.answered(answer.body, kind, keys)
        if isinstance(outcome, Failure):
            return Called(answer.status, usage, outcome)
        usage = msgspec.structs.replace(usage, tokens_in=outcome.tokens_in, tokens_out=outcome.tokens_out)
        return Called(answer.status, usage, outcome)
