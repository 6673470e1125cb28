"""The stores of judging, opened together."""

from typing import NamedTuple, Self

from sqlalchemy.ext.asyncio import AsyncEngine

from app.judging.judgement_store import JudgementStore
from app.judging.registry_store import RegistryStore
from app.judging.rule_store import RuleStore
from app.responses.store import ResponseStore


class JudgingStores(NamedTuple):
    """Judge versions, rules, judgements, and the responses that they are about."""

    registry: RegistryStore
    rules: RuleStore
    judgements: JudgementStore
    responses: ResponseStore

    @classmethod
    def of(cls, engine: AsyncEngine) -> Self:
        """Return the stores on one pool."""
        return cls(RegistryStore(engine), RuleStore(engine), JudgementStore(engine), ResponseStore(engine))
