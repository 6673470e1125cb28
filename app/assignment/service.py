"""One assignment: decide, record, sign."""

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
    """Which variant serves. Send `assignment_id` along with feedback."""

    experiment: str
    variant: str
    payload: Any
    assignment_id: str
    propensity: float
    policy_version: int
    reason: Reason


class Assignment(msgspec.Struct, frozen=True, gc=False):
    """A decision that was signed. `id` is the token."""

    experiment: PreparedExperiment
    decision: Decision
    policy_version: int
    id: str

    def view(self) -> AssignmentView:
        """The answer."""
        return _view(self.experiment, self.decision, self.policy_version, self.id)

    def json(self) -> bytes:
        """The answer as JSON, the same that encoding `view` gives."""
        experiment, decision = self.experiment, self.decision
        if decision.reason == "STICKY" or experiment.reader is not None:  # decisions without number
            return _encode(self.view())
        before, after = experiment.answers.get(decision) or _answer(experiment, decision)
        return before + self.id.encode("ascii") + after


class Assigner:
    """Assigns from the newest snapshot; exposures go through `commit`, first draws through `sticky`.

    `rng` is seeded from the system's entropy in production: assignment ids must differ between processes.
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
        """The experiment of this key, newly published ones included. Raises NotFound; archived ones are.

        Raises Unavailable for a key that this server does not know while it may not know all experiments.
        """
        experiment = self.keeper.snapshot.by_key.get(key)
        refreshed = False
        if experiment is None or experiment.published.state == "draft":
            refreshed = await self.keeper.refresh_soon()
            experiment = self.keeper.snapshot.by_key.get(key)
        if experiment is None and not (refreshed and self.keeper.snapshot.complete):
            raise Unavailable(f"this server does not know yet whether there is an experiment {key!r}")
        if experiment is None or experiment.published.state == "archived":
            raise NotFound(f"no experiment has the key {key!r}", field="experiment")
        return experiment

    async def assign_all(
        self, keys: Sequence[str] | None, unit: str, context: dict[str, Any] | None
    ) -> list[Assignment]:
        """One assignment per key, in their order; without keys, for every running experiment.

        Raises NotFound; InvalidInput when they are too many, or like `decide`; Unavailable like `experiment`.
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
        # All decide before the first is recorded: a context that one of them refuses leaves nothing behind.
        proposals = [self._propose(one, unit, context) for one in experiments]
        return list(await asyncio.gather(*(self._record(one, unit, context) for one in proposals)))

    async def assign(
        self, experiment: PreparedExperiment, unit: str, context: dict[str, Any] | None
    ) -> Assignment:
        """Assign one unit.

        Raises Unavailable while there is no key to sign with; InvalidInput like `decide`.
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
        # A repeated first assignment is recorded again: the log drops it, unless the first was lost.
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
        """The same for experiments that are not strict, without a task: `then` gets the assignment.

        Raises Unavailable while there is no key to sign with; InvalidInput like `decide`.
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
            raise Unavailable("no key to sign assignment ids with has been published yet")
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
        """The unit's first assignment, now or within the horizon; None when Valkey cannot tell."""
        published = proposal.experiment.published
        said = AssignmentId.from_body(proposal.body)
        try:
            first = await self._sticky.first(
                published.id, said.unit_hash, proposal.body, expiry_s=published.reward.horizon_s
            )
        except Unavailable:
            return None
        if first == proposal.body:
            return proposal
        said = AssignmentId.from_body(first)
        if said.variant >= len(published.variants):
            return None
        decision = Decision(said.variant, said.propensity, "STICKY")
        return proposal._replace(decision=decision, version=said.policy_version, body=first)


class _Proposal(NamedTuple):
    """A decision on its way: the body of its id, and who will sign it."""

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
    """What stands before and after the id in the answer to a decision, kept for the next time."""
    version = experiment.published.policy_version
    text = _encode(_view(experiment, decision, version, _PLACEHOLDER))
    before, _, after = text.rpartition(_PLACEHOLDER.encode())  # the payload, which may hold it too, is before
    experiment.answers[decision] = before, after
    return before, after
