"""Judges of the kind `local`."""

import asyncio
from collections.abc import Sequence

import msgspec

from app.core.errors import InvalidInput
from app.judging.judges import limits
from app.judging.judges.local_models import release, scores
from app.judging.judges.model import JudgedText, Judgement, LocalVersion


def pinned(version: LocalVersion) -> LocalVersion:
    """Return a version that names the installed library.

    Raises InvalidInput without the extra, or if the version names another release.
    """
    installed = release(version.model)
    if version.release not in {None, installed}:
        raise InvalidInput(
            f"the version needs {version.release}; {installed} is installed: create a new version",
            field="release",
        )
    return msgspec.structs.replace(version, release=installed)


class LocalJudge:
    """A judge that runs a model in threads of this process, in batches."""

    def __init__(self, version: LocalVersion) -> None:
        self.version = pinned(version)
        self._turn = asyncio.Lock()  # one batch at a time: the models are not made for threads

    async def score(self, item: JudgedText) -> Judgement:
        """Return the score of a response; `score_many` is quicker for several."""
        return (await self.score_many([item]))[0]

    async def score_many(self, items: Sequence[JudgedText]) -> list[Judgement]:
        """Return the score of each response, in order."""
        judgements: list[Judgement] = []
        for start in range(0, len(items), limits.BATCH_MAX):
            batch = items[start : start + limits.BATCH_MAX]
            async with self._turn:
                judgements += await asyncio.to_thread(scores, self.version.model, batch)
        return judgements

    async def aclose(self) -> None:
        """Do nothing: the models stay loaded for other versions."""
