"""Judges of the kind `rule`."""

import asyncio
from collections.abc import Sequence

from app.judging.judges.model import JudgedText, Judgement, RuleVersion
from app.judging.judges.rule_checks import judge_by_rule


class RuleJudge:
    """A judge that applies one rule, in a thread, so that the event loop keeps running."""

    def __init__(self, version: RuleVersion) -> None:
        self.version = version

    async def score(self, item: JudgedText) -> Judgement:
        """Return what the rule says about a response."""
        return (await self.score_many([item]))[0]

    async def score_many(self, items: Sequence[JudgedText]) -> list[Judgement]:
        """Return what the rule says about each response, in order."""
        return await asyncio.to_thread(lambda: [judge_by_rule(self.version.check, item) for item in items])

    async def aclose(self) -> None:
        """Do nothing: a rule holds no connection."""
