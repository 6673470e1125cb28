"""Use case of an assignment: decide, record, sign."""

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, NamedTuple

import msgspec

from app.assignment import assignment_id, bucketing, limits
from app.assignment.assignment_id import RANDOM_BITS, AssignmentId, Signer
from app.assignment.commit import ExposureCommit
from app.assignment.decide import RECORDED, Decision, Reason, decide
from app.assignment.snapshot import PreparedExperiment
from app.assignment.snapshot_keeper import SnapshotKeeper
from app.assignment.store import StickyStore
from app.core.clock import Clock
from app.core.errors import InvalidInput, NotFound, Unavailable
from app.core.settings import Durability
from app.core.telemetry import ASSIGNMENTS, FastCounter

_RANDOM_MASK: Final = (1 << RANDOM_BITS) - 1
_PLACEHOLDER: Final = "~" * assignment_id.TOKEN_LENGTH
_RECORDED_LABELS: Final = {True: "true", False: "false"}
_encode: Final = msgspec.json.Encoder().encode


class AssignmentView(msgspec.Struct, frozen=True):
    """The variant that serves. Send `assignment_id` with feedback."""

    experiment: str
    variant: str
    payload: Any
    assignment_id: str
    propensity: float
    policy_version: int
    reason: Reason


class Assignment(msgspec.Struct, frozen=True, gc=False):
    """A signed decision. `id` is the token."""

    experiment: PreparedExperiment
    decision: Decision
    policy_version: int
    id: str

    def view(self) -> AssignmentView:
        """Return the answer."""
        return _view(self.experiment, self.decision, self.policy_version, self.id)

    def json(self) -> bytes:
        """Return the answer as JSON, equal to encoding `view`."""
        experiment, decision = self.experiment, self.decision
        if decision.reason == "STICKY" or experiment.reader is not None:  # too many decisions to keep
            return _encode(self.view())
        before, after = experiment.answers.get(decision) or _answer(experiment, decision)
        return before + self.id.encode("ascii") + after


class Assigner:
    """Assigner of units, from the newest snapshot.

    Exposures go through `commit`, first draws through `sticky`. In production, the system's entropy
    seeds `rng`, so that assignment ids differ between processes.
    """

    def __init__(
        self,
        keeper: SnapshotKeeper,
        commit: ExposureCommit,
        sticky: StickyStore,
        *,
        clock: Clock,
        rng: Random,
        durability: Durability = Durability.DURABLE,
    ) -> None:
        self.keeper = keeper
        self.clock = clock
        self.counter = FastCounter(ASSIGNMENTS)
        self._commit = commit
        self._sticky = sticky
        self._rng = rng
        self._waits = durability is Durability.DURABLE

    async def experiment(self, key: str) -> PreparedExperiment:
        """Return the experiment with this key, even if it was published a moment ago.

        Raises NotFound if it does not exist or is archived. Raises Unavailable for an unknown key
        while this server may not know all experiments.
        """
        experiment = self.keeper.snapshot.by_key.get(key)
        refreshed = False
        if experiment is None or experiment.published.state == "draft":
            refreshed = await self.keeper.refresh_soon()
            experiment = self.keeper.snapshot.by_key.get(key)
        if experiment is None and not (refreshed and self.keeper.snapshot.complete):
            raise Unavailable(f"this server does not know yet whether experiment {key!r} exists")
        if experiment is None or experiment.published.state == "archived":
            raise NotFound(f"no experiment has the key {key!r}", field="experiment")
        return experiment

    async def assign_all(
        self, keys: Sequence[str] | None, unit: str, context: dict[str, Any] | None
    ) -> list[Assignment]:
        """Return one assignment per key, in order; without keys, per running experiment.

        Raises NotFound; InvalidInput for too many experiments, or like `decide`; Unavailable like
        `experiment`.
        """
        if keys is None:
            if not self.keeper.loaded:
                raise Unavailable("this server does not know all experiments yet")
            experiments = self.keeper.snapshot.running
        else:
            experiments = tuple([await self.experiment(key) for key in keys])
        if len(experiments) > limits.ASSIGN_EXPERIMENTS_MAX:
            detail = f"{len(experiments)} are running: name at most {limits.ASSIGN_EXPERIMENTS_MAX} of them"
            raise InvalidInput(detail, field="experiments")
        # All experiments decide before the first is recorded, so that a context that one of them
        # refuses leaves no exposure.
        proposals = [self._propose(experiment, unit, context) for experiment in experiments]
        recording = (self._record(proposal, unit, context) for proposal in proposals)
        return list(await asyncio.gather(*recording))

    async def assign(
        self, experiment: PreparedExperiment, unit: str, context: dict[str, Any] | None
    ) -> Assignment:
        """Assign one unit.

        Raises Unavailable without a signing key; InvalidInput like `decide`.
        """
        return await self._record(self._propose(experiment, unit, context), unit, context)

    async def _record(self, proposal: "_Proposal", unit: str, context: dict[str, Any] | None) -> Assignment:
        if proposal.decision.reason not in RECORDED:
            return self._settle(proposal, recorded=False)
        if proposal.experiment.published.stickiness == "strict":
            first = await self._first(proposal)
            if first is None:
                return self._settle(proposal, recorded=False)
            proposal = first
        # A repeated first assignment is recorded again. The log drops it unless the first was lost.
        written = self._commit.add((proposal.body, unit, context))
        if self._waits or written.done():
            return self._settle(proposal, recorded=await written)
        return self._settle(proposal, recorded=True)

    def assign_soon(
        self,
        experiment: PreparedExperiment,
        unit: str,
        context: dict[str, Any] | None,
        then: Callable[[Assignment], None],
    ) -> None:
        """Assign without a task, except under strict stickiness; call `then` with the assignment.

        Raises Unavailable without a signing key; InvalidInput like `decide`.
        """
        proposal = self._propose(experiment, unit, context)
        if proposal.decision.reason not in RECORDED:
            then(self._settle(proposal, recorded=False))
            return
        written = self._commit.add((proposal.body, unit, context))
        if written.done():
            then(self._settle(proposal, recorded=written.result()))
        elif self._waits:
            written.add_done_callback(lambda done: then(self._settle(proposal, recorded=done.result())))
        else:
            then(self._settle(proposal, recorded=True))

    def _propose(
        self, experiment: PreparedExperiment, unit: str, context: dict[str, Any] | None
    ) -> "_Proposal":
        published = experiment.published
        signer = self.keeper.snapshot.signer
        if signer is None:
            raise Unavailable("no signing key for assignment ids is published yet")
        bits = self._rng.getrandbits(32 + RANDOM_BITS)
        unit_hash = bucketing.unit_hash(published.salt, unit)
        decision = decide(experiment, unit, unit_hash, context or {}, bits >> RANDOM_BITS)
        body = assignment_id.body(
            key_id=signer.key_id,
            flags=0,
            variant=decision.variant,
            experiment_id=published.id,
            epoch=published.epoch,
            policy_version=published.policy_version,
            id=assignment_id.uuid7(self.clock.now_ms(), bits & _RANDOM_MASK),
            propensity=decision.propensity,
            unit_hash=unit_hash,
        )
        return _Proposal(experiment, decision, published.policy_version, body, signer)

    def _settle(self, proposal: "_Proposal", *, recorded: bool) -> Assignment:
        experiment, decision, version, body, signer = proposal
        token = signer.sign(body if recorded else assignment_id.unrecorded(body))
        published = experiment.published
        keys = published.key, published.variants[decision.variant].key
        self.counter.add((*keys, decision.reason, _RECORDED_LABELS[recorded]))
        return Assignment(experiment, decision, version, token)

    async def _first(self, proposal: "_Proposal") -> "_Proposal | None":
        """Return the unit's first assignment within the horizon; None if Valkey cannot answer."""
        published = proposal.experiment.published
        unit_hash = AssignmentId.from_body(proposal.body).unit_hash
        try:
            body = await self._sticky.first(
                published.id, unit_hash, proposal.body, expiry_s=published.reward.horizon_s
            )
        except Unavailable:
            return None
        if body == proposal.body:
            return proposal
        first = AssignmentId.from_body(body)
        if first.variant >= len(published.variants):
            return None
        decision = Decision(first.variant, first.propensity, "STICKY")
        return proposal._replace(decision=decision, version=first.policy_version, body=body)


class _Proposal(NamedTuple):
    """A decision that is not signed yet: the body of its id, and its signer."""

    experiment: PreparedExperiment
    decision: Decision
    version: int
    body: bytes
    signer: Signer


def _view(experiment: PreparedExperiment, decision: Decision, version: int, token: str) -> AssignmentView:
    variant = experiment.published.variants[decision.variant]
    return AssignmentView(
        experiment.published.key,
        variant.key,
        msgspec.Raw(variant.payload),
        token,
        decision.propensity,
        version,
        decision.reason,
    )


def _answer(experiment: PreparedExperiment, decision: Decision) -> tuple[bytes, bytes]:
    """Return and keep the JSON before and after the id in the answer to a decision."""
    version = experiment.published.policy_version
    text = _encode(_view(experiment, decision, version, _PLACEHOLDER))
    # The payload may contain the placeholder too; it comes before the id.
    before, _, after = text.rpartition(_PLACEHOLDER.encode())
    experiment.answers[decision] = before, after
    return before, after
