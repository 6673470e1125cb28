"""Use cases of rollouts: begin one, look at it and decide, and apply what people do to it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Any, assert_never

import msgspec
import structlog

from app import __version__
from app.analysis.balance import balance_findings
from app.analysis.integrity import findings
from app.analysis.observed import Observed
from app.analysis.readout.model import RolloutStatus
from app.core import telemetry
from app.core.clock import Clock
from app.core.errors import Conflict, FieldError, InvalidInput, UnprocessableInput
from app.core.limits import DESCRIPTION_LENGTH_MAX, PAGE_SIZE_MAX
from app.core.postgres import Transaction
from app.core.text import Key, check_reason, check_storable, is_key
from app.experiments.model import Definition, Experiment, kind_of
from app.experiments.model import Running as ExperimentRunning
from app.experiments.plan import AnalysisPlan
from app.rollouts import limits
from app.rollouts.checks import check, resolve
from app.rollouts.gates import status_of
from app.rollouts.gauges import Gauges
from app.rollouts.life import Looked, Rollout, Taken, check_repeats, room, shares_after, step_of
from app.rollouts.limits import ROLLOUTS_SHOWN_MAX
from app.rollouts.lineage import Lineage, lineage
from app.rollouts.model import (
    Advance,
    Ask,
    Complete,
    Decision,
    Draft,
    Hold,
    Paused,
    RollBack,
    RolloutPlan,
    RolloutPlanRequest,
    Running,
)
from app.rollouts.planner import with_baselines
from app.rollouts.receipt import Notice, Receipt, differences, receipt
from app.rollouts.steps import EventKind, Started, Step, after, description, event_of
from app.rollouts.store import Locked, RolloutStore

_LOG = structlog.get_logger(__name__)


class RolloutRequest(RolloutPlanRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a rollout of an experiment. A new attempt after proven harm needs a reason.

    `start`: begin at once; otherwise it is a draft, which `POST /rollouts/{id}/start` begins.
    """

    experiment: Key
    start: bool = True
    reason: Annotated[str, msgspec.Meta(max_length=DESCRIPTION_LENGTH_MAX)] = ""


class _Done(msgspec.Struct, frozen=True):
    """A result to report after the commit. `data_age_s` is that of a decision of Wald itself."""

    taken: Taken
    changed_shares: bool
    data_age_s: float | None


class RolloutService:
    """Use cases. `on_change` gets the id of an experiment whose shares changed, after the commit."""

    def __init__(
        self, store: RolloutStore, clock: Clock, on_change: Callable[[int], Awaitable[object]]
    ) -> None:
        self._store = store
        self._clock = clock
        self._on_change = on_change
        self._gauges = Gauges()

    async def begin(self, request: RolloutRequest, by: str) -> Rollout:
        """Begin with the first stage, or plan a draft that a person starts later.

        Raises NotFound; InvalidInput with the fields; UnprocessableInput if the policy cannot hold
        shares. Raises Conflict if the request would undo the end of an earlier rollout (see
        `life.check_repeats`). Unless it is a draft, it also raises what `act` raises for `start`.
        """
        check_storable(request.reason, "reason")
        done: _Done | None = None
        async with self._store.begun(request.experiment) as (connection, experiment):
            if request.start:
                _check_running(experiment)
            fields = {name: getattr(request, name) for name in RolloutPlanRequest.__struct_fields__}
            plan = resolve(RolloutPlanRequest(**fields), experiment.definition)
            _check_fits(plan, experiment.definition)
            if not request.start:
                await self._check_repeats(connection, experiment, plan, request.reason)
            now = self._clock.now()
            locked = await self._store.insert(
                connection, experiment, plan, by=by, reason=request.reason, at=now
            )
            if request.start:
                done = await self._start(locked, by=by, reason=request.reason)
        await self._committed(experiment.id, done)
        return await self._store.find(locked.rollout.id)

    async def discard(self, rollout_id: int) -> None:
        """Delete a draft. Raises NotFound; Conflict after its start, because decisions are kept."""
        async with self._store.locked(rollout_id, wait=True) as locked:
            assert locked is not None, "locked waits"
            if not isinstance(locked.rollout.state, Draft):
                raise Conflict(f"rollout {rollout_id} has begun; its decisions are kept", field="state")
            await self._store.delete(locked.connection, rollout_id)

    async def _start(self, locked: Locked, *, by: str, reason: str) -> _Done:
        """Start a draft that fits the experiment as it is now."""
        connection, rollout, experiment = locked.connection, locked.rollout, locked.experiment
        if not isinstance(rollout.state, Draft):
            raise Conflict(f"rollout {rollout.id} has already begun", field="state")
        _check_running(experiment)
        check(rollout.plan, experiment.definition)
        _check_fits(rollout.plan, experiment.definition)
        _check_room(rollout.plan, experiment)
        if not (reason or rollout.reason):
            await self._check_unharmed(locked)
        if await self._store.has_active(connection, experiment):
            raise Conflict(f"{experiment.key!r} already has a rollout that has not ended", field="experiment")
        await self._check_repeats(connection, experiment, rollout.plan, rollout.reason)
        stored = await self._store.observed(locked)
        begun = msgspec.structs.replace(
            rollout,
            plan=with_baselines(rollout.plan, stored.observed(experiment)),
            epoch=experiment.epoch + 1,
        )
        await self._store.fix(connection, begun)
        locked = msgspec.structs.replace(locked, rollout=begun)
        return await self._apply(locked, Started(), None, by=by, reason=reason)

    async def look(self, rollout_id: int) -> bool:
        """Look at a rollout once and apply the decision; return whether there was one.

        Does nothing while another worker looks at it.
        """
        async with self._store.locked(rollout_id, wait=False) as locked:
            if locked is None or not isinstance(locked.rollout.state, Running | Paused):
                return False
            done = await self._decide(locked)
        await self._committed(locked.experiment.id, done)
        return done is not None

    async def _decide(self, locked: Locked) -> _Done | None:
        """Decide from the data and apply it; None if the decision is to hold or to ask.

        While the experiment is paused or killed no unit gets the canary, so only harm decides.
        """
        is_paused = kind_of(locked.experiment.state) == "paused" or locked.experiment.killed
        if not is_paused and not isinstance(locked.experiment.state, ExperimentRunning):
            why = "the experiment has ended"
            ended = RollBack(canaries=locked.rollout.running.canaries, reason="ended", detail=why)
            return await self._apply(locked, ended, None, by=None, reason=why)
        made = await self._receipt(locked)
        if is_paused and not _is_harm(made.decision):
            why = "killed" if locked.experiment.killed else "paused"
            waits = Hold(reason="paused", detail=f"the experiment is {why}")
            made = msgspec.structs.replace(made, decision=waits)
        match made.decision:
            case Hold() | Ask():
                await self._note(locked, made)
                return None
            case Advance() | Complete() | RollBack():
                examples = tuple(await self._examples(locked))
                made = msgspec.structs.replace(made, examples=examples)
                reason = getattr(made.decision, "detail", "every guardrail is safe")
                return await self._apply(locked, made.decision, made, by=None, reason=reason)
            case _:
                assert_never(made.decision)

    async def act(
        self, rollout_id: int, action: str, *, by: str, reason: str, stage: int | None = None
    ) -> Rollout:
        """Start a draft, pause, resume, approve, advance (skip a stage) or roll back, for a person.

        Raises NotFound; Conflict if the rollout has ended, the action does nothing, or the rollout
        is not in `stage`. A start also raises it if `begin` would, if another rollout of the
        experiment has not ended, or if the experiment does not run. Raises InvalidInput if a reason
        is missing: to skip, to roll back, or to start with a canary whose harm was proven before.
        """
        check_storable(reason, "reason")
        if action in {"advance", "rollback"}:
            check_reason(reason)
        async with self._store.locked(rollout_id, wait=True) as locked:
            assert locked is not None, "locked waits"
            if stage is not None:
                _check_stage(locked.rollout, stage)
            if action == "start":
                done = await self._start(locked, by=by, reason=reason)
            else:
                step = step_of(locked.rollout, action, reason)
                running = isinstance(locked.experiment.state, ExperimentRunning)
                made = await self._receipt(locked) if running else None
                done = await self._apply(locked, step, made, by=by, reason=reason)
        await self._committed(locked.experiment.id, done)
        return await self._store.find(rollout_id)

    async def explain(self, rollout_id: int, number: int) -> tuple[Taken, Receipt | None, tuple[str, ...]]:
        """Return a decision, its receipt, and the parts that its inputs do not reproduce bit for bit."""
        taken, made = await self._store.decision(rollout_id, number)
        wrong = () if made is None else await asyncio.to_thread(differences, made)
        return taken, made, wrong

    async def measure(self) -> None:
        """Update the gauges of `/metrics`."""
        now = self._clock.now()
        counts = await self._store.count_by_state()
        self._gauges.show(await self._store.watched(now - timedelta(hours=1)), counts, now)

    async def active(self) -> list[int]:
        """Return the ids of rollouts under way."""
        return await self._store.active()

    async def get(self, rollout_id: int) -> Rollout:
        """Return the rollout of this id. Raises NotFound."""
        return await self._store.find(rollout_id)

    async def page(self, *, experiment: str | None, after: int | None, limit: int) -> list[Rollout]:
        """Return rollouts, newest first. Raises InvalidInput."""
        if not 1 <= limit <= PAGE_SIZE_MAX:
            raise InvalidInput(f"must be 1 to {PAGE_SIZE_MAX}, got {limit}", field="limit")
        if experiment is not None and not is_key(experiment):
            raise InvalidInput("must be the key of an experiment", field="experiment")
        return await self._store.page(experiment=experiment, after=after, limit=limit)

    async def statuses(self, key: str) -> list[RolloutStatus]:
        """Return the newest rollouts of an experiment, as its status shows them."""
        newest = await self._store.page(experiment=key, after=None, limit=ROLLOUTS_SHOWN_MAX)
        return [status_of(rollout) for rollout in newest]

    async def decisions(self, rollout_id: int) -> list[Taken]:
        """Return all decisions, oldest first. Raises NotFound."""
        await self._store.find(rollout_id)
        return await self._store.decisions(rollout_id)

    async def lineage(self, key: str) -> Lineage:
        """Return the versions of an experiment, and which was the standard when. Raises NotFound."""
        return lineage(*await self._store.completions(key))

    async def _check_unharmed(self, locked: Locked) -> None:
        """Require a reason after proven harm. Raises InvalidInput."""
        canaries = locked.rollout.plan.canaries
        harmed = await self._store.harmed(locked.connection, locked.experiment, canaries)
        if harmed is not None:
            raise InvalidInput(
                f"rollout {harmed} rolled back one of these canaries for harm; a new attempt needs a reason",
                field="reason",
            )

    async def _check_repeats(
        self, connection: Transaction, experiment: Experiment, plan: RolloutPlan, reason: str
    ) -> None:
        ended = await self._store.ended(connection, experiment, plan.canaries)
        harmed = await self._store.harmed(connection, experiment, plan.canaries)
        check_repeats(plan, reason, ended, harmed)

    async def _receipt(self, locked: Locked) -> Receipt:
        stored = await self._store.observed(locked)
        rollout, now = locked.rollout, self._clock.now()
        state = rollout.state
        assert isinstance(state, Running | Paused)
        observed = stored.observed(locked.experiment)
        compared = compared_of(observed, rollout)
        return await asyncio.to_thread(
            receipt,
            rollout.plan,
            state,
            compared,
            findings=(*findings(observed), *balance_findings(AnalysisPlan(), compared)),
            now=now,
            as_of=stored.totals_as_of,
            wald=__version__,
        )

    async def _examples(self, locked: Locked) -> list[str]:
        keys = [variant.key for variant in locked.experiment.definition.variants]
        variants = [keys.index(canary) for canary in locked.rollout.running.canaries]
        return await self._store.examples(locked, variants, limits.ROLLOUT_EXAMPLES_MAX)

    async def _apply(
        self, locked: Locked, step: Step, made: Receipt | None, *, by: str | None, reason: str
    ) -> _Done:
        """Record a step with its shares and its webhook."""
        connection, rollout, experiment = locked.connection, locked.rollout, locked.experiment
        now = self._clock.now()
        state = after(rollout.state, step, at=now, epoch=experiment.epoch + 1, canaries=rollout.plan.canaries)
        shares = shares_after(experiment, rollout.plan, state)
        changed = shares != experiment.held
        if changed:
            await self._store.hold(connection, experiment, shares, now)
        await self._store.move(connection, rollout.id, state)
        if made is not None:
            decision = step if isinstance(step, Decision) else made.decision
            await self._store.note(
                connection, rollout.id, Looked(at=now, decision=decision, reading=made.reading)
            )
        taken = Taken(decision=step, by=by, reason=reason, at=now)
        numbered = await self._store.take(connection, rollout.id, taken, made)
        event, severity = event_of(step)
        await self._tell(locked, event, severity, numbered, made)
        return _Done(numbered, changed, None if by or made is None else made.reading.data_age_s)

    async def _note(self, locked: Locked, made: Receipt) -> None:
        """Record the look. Send one webhook about a hold or a question, and one when it is over."""
        before, now = locked.rollout.looked, self._clock.now()
        decision = made.decision
        called, calls = before is not None and before.called, _calls(decision)
        changed = before is None or _essence(before.decision) != _essence(decision)
        stale = before is None or (now - before.at).total_seconds() >= limits.ROLLOUT_NOTE_S
        if changed or stale or called != calls:
            looked = Looked(at=now, decision=decision, reading=made.reading, called=calls)
            await self._store.note(locked.connection, locked.rollout.id, looked)
        if calls and (changed or not called):
            asks = isinstance(decision, Ask)
            event: EventKind = "rollout.approval_needed" if asks else "rollout.held"
            await self._tell(locked, event, "warning", None, made)
        elif called and not calls:
            await self._tell(locked, "rollout.recovered", "info", None, made)

    async def _tell(
        self, locked: Locked, event: EventKind, severity: str, taken: Taken | None, made: Receipt | None
    ) -> None:
        rollout, now = locked.rollout, self._clock.now()
        step = taken.decision if taken is not None else made.decision if made is not None else Started()
        number = f"decision/{taken.number}" if taken is not None else f"{event}/{now.isoformat()}"
        data: dict[str, Any] = {
            "summary": f"Rollout {rollout.id} of {rollout.experiment}: {description(step)}",
            "severity": severity,
            "experiment": rollout.experiment,
            "variant": ", ".join(getattr(step, "canaries", rollout.plan.canaries)),
            "incident": f"rollout-{rollout.id}",
            "resolved": severity == "info",
            "rollout": rollout.id,
            "decision": taken,
            "notice": None if made is None else Notice.of(made),
        }
        await self._store.tell(
            locked.connection,
            key=f"rollouts/{rollout.id}/{number}",
            event=event,
            data=msgspec.to_builtins(data),
            at=now,
        )

    async def _committed(self, experiment_id: int, done: _Done | None) -> None:
        """Count what was done and publish changed shares, after the commit."""
        if done is None:
            return
        step, by = done.taken.decision, done.taken.by
        kind = str(step.__struct_config__.tag)
        telemetry.ROLLOUT_DECISIONS.labels(kind, "wald" if by is None else "person").inc()
        if done.data_age_s is not None:
            telemetry.ROLLOUT_DATA_AGE.observe(done.data_age_s)
        if isinstance(step, RollBack):
            telemetry.ROLLBACKS.labels(step.reason).inc()
        if not done.changed_shares:
            return
        try:
            await self._on_change(experiment_id)
        except Exception as error:  # noqa: BLE001 - it is committed, and the worker publishes it
            _LOG.warning("publication_left_to_worker", experiment_id=experiment_id, reason=repr(error))


def compared_of(observed: Observed, rollout: Rollout) -> Observed:
    """Return the totals of its control and canaries since its start: their shares are constant per epoch."""
    compared = {observed.control, *rollout.plan.canaries}
    variants = tuple(variant for variant in observed.variants if variant in compared)
    cells = [cell for cell in observed.cells if cell.epoch >= rollout.epoch and cell.variant in variants]
    return msgspec.structs.replace(
        observed, variants=variants, cells=cells, adaptive=False, drawn=(), fixed_epochs=(), assignments=()
    )


def _check_running(experiment: Experiment) -> None:
    if not isinstance(experiment.state, ExperimentRunning):
        raise Conflict(
            f"the experiment is {kind_of(experiment.state)}; start the experiment first", field="experiment"
        )


def _check_stage(rollout: Rollout, stage: int) -> None:
    """Refuse an action that was meant for another stage."""
    if rollout.running.stage != stage:
        raise Conflict(
            f"rollout {rollout.id} is in stage {rollout.running.stage}, not {stage}", field="stage"
        )


def _check_room(plan: RolloutPlan, experiment: Experiment) -> None:
    """Refuse a rollout if earlier ones hold the traffic that its canary and control need."""
    left = room(experiment, plan)
    if left <= max(stage.share for stage in plan.measured_stages):
        raise Conflict(
            f"earlier rollouts hold all but {left:.0%} of the traffic, too little for canary and control: "
            "make the promoted variant the control of the experiment first",
            field="experiment",
        )


def _check_fits(plan: RolloutPlan, definition: Definition) -> None:
    policy = definition.policy
    if not policy.can_be_held:
        raise UnprocessableInput(
            f"the policy {policy.kind} cannot hold shares, which a rollout needs",
            field="experiment",
        )
    _check_measured(plan, definition)


def _check_measured(plan: RolloutPlan, definition: Definition) -> None:
    """Require that the ledger measures all guardrails: others would hold the rollout forever."""
    measured = {metric.key: metric.measure for metric in definition.metrics}
    errors = tuple(
        FieldError(
            f"guardrails[{index}]",
            f"{guardrail.metric.key!r} is not measured; add it to the metrics of the experiment",
        )
        for index, guardrail in enumerate(plan.guardrails)
        if measured.get(guardrail.metric.key) != guardrail.metric.measure
    )
    if errors:
        detail = "; ".join(f"{error.field}: {error.reason}" for error in errors)
        raise InvalidInput(detail, errors=errors)


def _is_harm(decision: Decision) -> bool:
    return isinstance(decision, RollBack) and decision.reason in {"harm", "limit"}


def _calls(decision: Decision) -> bool:
    """Return whether this decision needs a person's attention."""
    return isinstance(decision, Ask) or (isinstance(decision, Hold) and decision.alert)


def _essence(decision: object) -> tuple[object, object]:
    return type(decision), getattr(decision, "reason", None)
