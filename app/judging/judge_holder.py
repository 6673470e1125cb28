"""Judges that a process holds open, with their connections and what calls taught them."""

import os
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec
import structlog

from app.core.clock import Clock
from app.core.errors import InvalidInput
from app.judging import limits
from app.judging.judges.endpoint_client import EndpointClient
from app.judging.judges.judge import Judge
from app.judging.judges.ladder import Adaptation
from app.judging.judges.llm_judge import LlmJudge
from app.judging.judges.model import Judged, JudgedText, LocalVersion, VersionHash
from app.judging.judges.service import SAMPLE, Preflight, open_judge, preflight
from app.judging.model import StoredVersion
from app.judging.registry_service import decode_definition
from app.judging.registry_store import RegistryStore

_LOG = structlog.get_logger(__name__)

_TOXICITY: Final = LocalVersion(name="toxicity", model="profanity")
_NO_KEY: Final = UUID(int=0)


class JudgeHolder:
    """Judges by version and `operation`: a change of the operation opens a new judge.

    Credentials are environment variables of this process. They are read when a judge is opened.
    """

    def __init__(self, registry: RegistryStore, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._http = EndpointClient()
        self._open: dict[tuple[VersionHash, bytes], Judge] = {}
        self._learned: dict[VersionHash, Adaptation] = {}
        self._toxicity: Judge | None = None
        self._measures_toxicity = True

    async def open(self, version: StoredVersion) -> Judge:
        """Return the judge of a version.

        Raises InvalidInput if something that it needs is missing.
        """
        key = (version.hash, msgspec.json.encode(version.version))
        judge = self._open.get(key)
        if judge is None:
            if len(self._open) >= limits.OPEN_JUDGES_MAX:
                await self._open.pop(next(iter(self._open))).aclose()
            adaptation = msgspec.convert(version.learned, Adaptation) if version.learned else None
            judge = open_judge(
                version.version, os.environ.get, self._http, adaptation=adaptation, clock=self._clock
            )
            self._open[key] = judge
        return judge

    async def remember(self, version: StoredVersion) -> None:
        """Store what the calls of a version taught, if it is new."""
        judge = self._open.get((version.hash, msgspec.json.encode(version.version)))
        if isinstance(judge, LlmJudge) and judge.adaptation != self._learned.get(version.hash):
            self._learned[version.hash] = judge.adaptation
            if (learned := msgspec.to_builtins(judge.adaptation)) != version.learned:
                await self._registry.set_learned(version.hash, learned)

    async def toxicity(self, texts: Sequence[str]) -> Sequence[float | None]:
        """Return the probability that each text is offensive; None without `judges-local`."""
        if self._toxicity is None and self._measures_toxicity:
            try:
                self._toxicity = open_judge(_TOXICITY, os.environ.get, self._http, clock=self._clock)
            except InvalidInput as error:
                self._measures_toxicity = False
                _LOG.info("toxicity_is_not_flagged", reason=error.detail)
        if self._toxicity is None:
            return [None] * len(texts)
        items = [JudgedText(response_key=_NO_KEY, response=text) for text in texts]
        scores = await self._toxicity.score_many(items)
        return [1 - score.score if isinstance(score, Judged) else None for score in scores]

    async def aclose(self) -> None:
        """Close all judges and their connections."""
        for judge in self._open.values():
            await judge.aclose()
        await self._http.aclose()


async def tried(body: bytes, *, prompt: str | None, response: str | None) -> Preflight:
    """Score one response with the judge that a JSON body defines, and store nothing.

    Raises InvalidInput for a definition that is not valid or lacks something.
    """
    version, _ = decode_definition(body)
    item = SAMPLE
    if response is not None:
        item = JudgedText(response_key=_NO_KEY, prompt=prompt, response=response)
    http = EndpointClient()
    judge = open_judge(version, os.environ.get, http)
    try:
        return await preflight(judge, item)
    finally:
        await judge.aclose()
        await http.aclose()
