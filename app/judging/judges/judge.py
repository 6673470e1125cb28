"""The interface of all judges."""

from collections.abc import Sequence
from typing import Protocol

from app.judging.judges.model import JudgedText, Judgement, JudgeVersion, Preference, Unscored


class Judge(Protocol):
    """A judge version, ready to score. One instance serves all tasks of a worker.

    Nothing but a cancellation is raised while it scores: a failure is `Unscored`.
    """

    @property
    def version(self) -> JudgeVersion:
        """The version that scores."""
        ...

    async def score(self, item: JudgedText) -> Judgement:
        """Return the score of a response, or why there is none."""
        ...

    async def score_many(self, items: Sequence[JudgedText]) -> list[Judgement]:
        """Return the score of each response, in order; quicker than one after the other."""
        ...

    async def aclose(self) -> None:
        """Free what the judge holds. Calls in progress end as `Unscored`."""
        ...


class ComparingJudge(Judge, Protocol):
    """A judge that also compares two responses to one prompt: the kinds `llm` and `decision`."""

    async def compare(self, a: JudgedText, b: JudgedText) -> Preference | Unscored:
        """Return which response is better, asked in both orders and blind to their origin."""
        ...
