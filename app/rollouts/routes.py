"""Rollouts over HTTP. They need the dependency `rollout_service: RolloutService`."""

from typing import Annotated, Any, Final, Literal

import msgspec
from litestar import Request, delete, get, post
from litestar.params import Parameter

from app.access.guards import requires
from app.access.model import Scope
from app.core.errors import Conflict
from app.core.limits import DESCRIPTION_LENGTH_MAX, PAGE_SIZE, PAGE_SIZE_MAX
from app.rollouts import limits
from app.rollouts.gates import Gate, gate
from app.rollouts.life import Rollout, Taken
from app.rollouts.lineage import Lineage
from app.rollouts.receipt import Receipt, is_current
from app.rollouts.service import RolloutRequest, RolloutService

Reason = Annotated[str, msgspec.Meta(max_length=DESCRIPTION_LENGTH_MAX)]
AskedShare = Annotated[float, Parameter(gt=0, le=1)]
"""The share of the traffic to go on to; 1, the default, is the end."""


class ActRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reason, required to skip a stage, to roll back and to start again after proven harm.

    `stage` is the stage that the action is for, as in the state: a repeated call does not change
    the next.
    """

    reason: Reason = ""
    stage: int | None = None


class RolloutPage(msgspec.Struct, frozen=True):
    """Rollouts, newest first. `next`: the id to pass as `after`; null on the last page."""

    rollouts: list[Rollout]
    next: int | None


class DecisionList(msgspec.Struct, frozen=True):
    """All decisions about a rollout, oldest first."""

    decisions: list[Taken]


class DecisionView(msgspec.Struct, frozen=True):
    """A decision with its evidence. `differs`: the parts that its inputs do not reproduce bit for bit.

    `recomputed` is false without a receipt, and for a receipt with tests that this release no longer makes.
    """

    decision: Taken
    receipt: Receipt | None
    differs: tuple[str, ...]
    recomputed: bool = True


@post("/rollouts", guards=[requires(Scope.ADMIN)], status_code=201)
async def begin_rollout(
    data: RolloutRequest, request: Request[Any, Any, Any], rollout_service: RolloutService
) -> Rollout:
    """Begin a rollout with its first stage, or plan a draft with `"start": false`.

    409 if another rollout of the experiment has not ended. 409 if the canaries were promoted, or
    rolled back for harm after the same request, unless `after` names the rollout that ended last.
    """
    return await rollout_service.begin(data, _caller(request))


@get("/rollouts", guards=[requires(Scope.READ)])
async def list_rollouts(
    rollout_service: RolloutService,
    experiment: str | None = None,
    after: Annotated[int | None, Parameter(ge=1, le=limits.ROLLOUT_ID_MAX)] = None,
    limit: Annotated[int, Parameter(ge=1, le=PAGE_SIZE_MAX)] = PAGE_SIZE,
) -> RolloutPage:
    """List rollouts, of one experiment or all, newest first, a page at a time."""
    rollouts = await rollout_service.page(experiment=experiment, after=after, limit=limit)
    return RolloutPage(rollouts, rollouts[-1].id if len(rollouts) == limit else None)


@get("/rollouts/{rollout_id:int}", guards=[requires(Scope.READ)])
async def get_rollout(rollout_id: int, rollout_service: RolloutService) -> Rollout:
    """Read a rollout: its plan, its state and the last look."""
    return await rollout_service.get(rollout_id)


@post("/rollouts/{rollout_id:int}/{action:str}", guards=[requires(Scope.ADMIN)], status_code=200)
async def act_on_rollout(
    rollout_id: int,
    action: Literal["start", "pause", "resume", "approve", "advance", "rollback"],
    request: Request[Any, Any, Any],
    rollout_service: RolloutService,
    data: ActRequest | None = None,
) -> Rollout:
    """Start a draft, pause, resume, approve the stage, advance to the next, or roll back at once.

    409 if the rollout has ended, or is in another stage than `stage`.
    """
    action_request = data or ActRequest()
    return await rollout_service.act(
        rollout_id, action, by=_caller(request), reason=action_request.reason, stage=action_request.stage
    )


@delete("/rollouts/{rollout_id:int}", guards=[requires(Scope.ADMIN)], status_code=204)
async def discard_rollout(rollout_id: int, rollout_service: RolloutService) -> None:
    """Delete a draft. 409 after its start, because decisions are kept."""
    await rollout_service.discard(rollout_id)


@get("/rollouts/{rollout_id:int}/decisions", guards=[requires(Scope.READ)])
async def list_decisions(rollout_id: int, rollout_service: RolloutService) -> DecisionList:
    """List all decisions about a rollout, and what people did to it."""
    return DecisionList(await rollout_service.decisions(rollout_id))


@get("/rollouts/{rollout_id:int}/decisions/{number:int}", guards=[requires(Scope.READ)])
async def get_decision(rollout_id: int, number: int, rollout_service: RolloutService) -> DecisionView:
    """Read a decision with its receipt, which is recomputed from its inputs."""
    taken, made, differs = await rollout_service.explain(rollout_id, number)
    return DecisionView(taken, made, differs, recomputed=made is not None and is_current(made))


@get("/rollouts/{rollout_id:int}/gate", guards=[requires(Scope.READ)])
async def read_gate(rollout_id: int, rollout_service: RolloutService, share: AskedShare = 1.0) -> Gate:
    """Ask whether a rollout may go on or must go back, for Argo Rollouts' web metrics and CI."""
    return gate(await rollout_service.get(rollout_id), share)


@post("/rollouts/{rollout_id:int}/gate/confirm", guards=[requires(Scope.READ)], status_code=200)
async def confirm_gate(
    rollout_id: int,
    rollout_service: RolloutService,
    request: Request[Any, Any, Any],
    share: AskedShare = 1.0,
) -> Gate:
    """Answer Flagger's hooks `confirm-…`: 200 if the rollout may go on, else 409. Takes any body."""
    await request.body()
    answer = gate(await rollout_service.get(rollout_id), share)
    if not answer.proceed:
        raise Conflict(f"cannot be promoted: {answer.reason}")
    return answer


@post("/rollouts/{rollout_id:int}/gate/rollback", guards=[requires(Scope.READ)], status_code=200)
async def rollback_gate(
    rollout_id: int, rollout_service: RolloutService, request: Request[Any, Any, Any]
) -> Gate:
    """Answer Flagger's hook `rollback`: 200 if the rollout must go back, else 409. Takes any body."""
    await request.body()
    answer = gate(await rollout_service.get(rollout_id))
    if not answer.roll_back:
        raise Conflict(f"was not rolled back: {answer.reason}")
    return answer


@get("/experiments/{key:str}/versions", guards=[requires(Scope.READ)])
async def list_versions(key: str, rollout_service: RolloutService) -> Lineage:
    """List the versions of an experiment, which one was the standard when, and who decided it."""
    return await rollout_service.lineage(key)


def _caller(request: Request[Any, Any, Any]) -> str:
    return f"key {request.state.api_key.id}"


ROUTES: Final = [
    begin_rollout,
    list_rollouts,
    get_rollout,
    act_on_rollout,
    discard_rollout,
    list_decisions,
    get_decision,
    read_gate,
    confirm_gate,
    rollback_gate,
    list_versions,
]
