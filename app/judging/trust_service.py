"""Use cases of trust: calibrate, promote, demote, and notice drift."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import structlog

from app.core.clock import Clock
from app.core.errors import Conflict, FieldError
from app.core.items import Items
from app.core.postgres import Transaction
from app.core.text import check_reason
from app.judging.calibration import Pair, drift, gate, pairs
from app.judging.model import StoredVersion
from app.judging.registry_store import Transition
from app.judging.store import JudgingStores
from app.judging.trust import Event, Trust, after
from app.reviews.store import ReviewStore
from app.webhooks.outbox import WebhookOutbox
from stats.calibration import Calibration

_LOG = structlog.get_logger(__name__)

EVENT_TYPES: Final = {
    Event.PROMOTE: "judge.promoted",
    Event.DRIFT: "judge.drifted",
    Event.DEMOTE: "judge.demoted",
}
"""Types of the webhooks about changes of trust."""


class TrustService:
    """Changes the trust in versions. The versions of one judge change one at a time."""

    def __init__(self, stores: JudgingStores, reviews: ReviewStore, clock: Clock) -> None:
        self._stores = stores
        self._reviews = reviews
        self._clock = clock
        self._outbox = WebhookOutbox()
        self._items = Items("judge trust", "judge_not_reviewed")

    async def pairs(self, version: StoredVersion) -> list[Pair]:
        """Return the responses that people and a version have scored, in all its experiments."""
        matched: list[Pair] = []
        for experiment_id in await self._stores.judgements.experiments_of(version.hash):
            labels = await self._reviews.labels(experiment_id)
            if labels:
                keys = [label.response_key for label in labels]
                scores = await self._stores.judgements.scores_about(version.hash, keys)
                matched += pairs(labels, [score for score in scores if score.experiment_id == experiment_id])
        return sorted(matched, key=lambda pair: pair.labelled_at)

    async def calibration(self, version: StoredVersion) -> Calibration:
        """Return the present decision of the calibration gate about a version.

        After a drift only later labels count: those from before must not open the gate again.
        """
        matched = await self.pairs(version)
        history = await self._stores.registry.history(version.hash)
        if version.trust is Trust.SHADOW and history and history[0].event is Event.DRIFT:
            matched = [pair for pair in matched if pair.labelled_at > version.trust_since]
        return gate(version.version, matched)

    async def promote(self, name: str, prefix: str) -> StoredVersion:
        """Let the scores of a version become signals from now on.

        The version of the same judge that was promoted before is calibrated from then on. Raises
        NotFound; Conflict with the reasons unless the gate passes.
        """
        version = await self._stores.registry.version(name, prefix)
        if version.trust is Trust.PROMOTED:
            return version
        decision = await self.calibration(version)
        if decision.verdict != "passed":
            reasons = decision.reasons or ("people have labelled no response that it has judged",)
            raise Conflict(
                f"{name} {version.hash[:12]} is not promoted, because the calibration gate has not passed: "
                + "; ".join(reasons),
                errors=tuple(FieldError("calibration", reason) for reason in reasons),
            )
        async with self._stores.registry.change() as connection:
            locked = await self._stores.registry.lock_judge(connection, name)
            for other in locked.values():
                if other.trust is Trust.PROMOTED and other.hash != version.hash:
                    reason = f"{version.hash[:12]} was promoted"
                    await self._move(connection, other, Event.SUPERSEDE, reason)
                    await self._stores.judgements.withdraw(connection, other.hash)
            present = locked[version.hash]
            evidence = _evidence(decision)
            if present.trust is Trust.SHADOW:
                present = await self._move(connection, present, Event.CALIBRATE, "the gate passed", evidence)
            return await self._move(connection, present, Event.PROMOTE, "by an administrator", evidence)

    async def demote(self, name: str, prefix: str, reason: str) -> StoredVersion:
        """Send a version back to shadow.

        Raises NotFound, InvalidInput; Conflict if it is in shadow.
        """
        check_reason(reason)
        version = await self._stores.registry.version(name, prefix)
        async with self._stores.registry.change() as connection:
            locked = await self._stores.registry.lock_judge(connection, name)
            moved = await self._move(connection, locked[version.hash], Event.DEMOTE, reason)
            await self._stores.judgements.withdraw(connection, version.hash)
            return moved

    async def review(self) -> None:
        """Calibrate versions whose gate passes, and send back those that have drifted."""
        versions = await self._stores.registry.all()
        names = {f"judge {version.name} {version.hash[:12]}": version for version in versions}
        await self._items.each(names, self._review)

    @property
    def errors(self) -> dict[str, str]:
        """Errors of the versions that cannot be reviewed at present, by name."""
        return self._items.errors

    async def _review(self, version: StoredVersion) -> None:
        if version.trust is not Trust.SHADOW:
            await self._test_drift(version, await self.pairs(version))
            return
        decision = await self.calibration(version)
        if decision.verdict == "passed":
            await self._change(version, Event.CALIBRATE, "the gate passed", _evidence(decision))

    async def _test_drift(self, version: StoredVersion, matched: Sequence[Pair]) -> None:
        result = drift(version.version, matched, version.trust_since)
        if result is not None and result.drifted:
            reason = f"agreement with people fell below {result.reference:.2f}"
            await self._change(version, Event.DRIFT, reason, msgspec.to_builtins(result))

    async def _change(self, version: StoredVersion, event: Event, reason: str, evidence: Any) -> None:
        """Change the trust in a version, unless it has changed since it was read."""
        async with self._stores.registry.change() as connection:
            locked = await self._stores.registry.lock_judge(connection, version.name)
            present = locked[version.hash]
            if (present.trust, present.trust_since) != (version.trust, version.trust_since):
                return
            moved = await self._move(connection, present, event, reason, evidence)
            if moved.trust is Trust.SHADOW:
                await self._stores.judgements.withdraw(connection, version.hash)

    async def _move(
        self, connection: Transaction, version: StoredVersion, event: Event, reason: str, evidence: Any = None
    ) -> StoredVersion:
        at = self._clock.now()
        state = after(version.trust, event)
        transition = Transition(event, version.trust, state, at, reason, evidence)
        await self._stores.registry.set_trust(connection, version.hash, transition)
        if event in EVENT_TYPES:
            drifted = event is Event.DRIFT
            await self._outbox.enqueue(
                connection,
                key=f"judging:{version.hash}:{event}:{at.isoformat()}",
                type=EVENT_TYPES[event],
                data={
                    "summary": f"judge {version.name} {version.hash[:12]} is {state}: {reason}",
                    "severity": "warning" if drifted else "info",
                    "judge": version.name,
                    "version": version.hash,
                    "before": version.trust,
                    "after": state,
                    "reason": reason,
                },
                at=at,
            )
        _LOG.info("judge_trust", judge=version.name, version=version.hash, state=state, reason=reason)
        return msgspec.structs.replace(version, trust=state, trust_since=at, trust_reason=reason)


def _evidence(decision: Calibration) -> Any:
    """Return a decision as JSON: undefined shares of the matrix are null."""
    return msgspec.json.decode(msgspec.json.encode(decision))
