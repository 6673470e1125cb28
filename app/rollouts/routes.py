"""Rollouts over HTTP. Needs the dependency `rollout_service: RolloutService`."""

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
"""Go on to this share of the traffic; 1, the default, is to the end."""


class ActRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why, which is needed to skip a stage, to roll back, and to start again after proven harm.

    `stage`, as in the state, is the one it is meant for: a call that is repeated does nothing to the next.
    """

    reason: Reason = ""
    stage: int | None = None


class RolloutPage(msgspec.Struct, frozen=True):
    """Rollouts, newest first. `next`: the id to pass as `after`; null on the last page."""

    rollouts: list[Rollout]
    next: int | None


class DecisionList(msgspec.Struct, frozen=True):
    """All that was decided about a rollout, oldest first."""

    decisions: list[Taken]


class DecisionView(msgspec.Struct, frozen=True):
    """A decision with its evidence. `differs`: parts that its inputs do not give again, bit for bit.

    `recomputed` is false without a receipt, and for one of a release whose tests this one no longer makes.
    """

    decision: Taken
    receipt: Receipt | None
    differs: tuple[str, ...]
    recomputed: bool = True


@post("/rollouts", guards=[requires(Scope.ADMIN)], status_code=201)
async def begin_rollout(
    data: RolloutRequest, request: Request[Any, Any, Any], rollout_service: RolloutService
) -> Rollout:
    """Begin a rollout with its first stage; with `"start": false` plan a draft.

    409 while another one of the experiment has not ended; where the canaries were promoted, or rolled back
    for harm after the same request, unless `after` names the rollout that ended last.
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
    found = await rollout_service.page(experiment=experiment, after=after, limit=limit)
    return RolloutPage(found, found[-1].id if len(found) == limit else None)


@get("/rollouts/{rollout_id:int}", guards=[requires(Scope.READ)])
async def get_rollout(rollout_id: int, rollout_service: RolloutService) -> Rollout:
    """Read a rollout: its plan, where it is, and what the last look came to."""
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

    409 once it has ended, or is in another stage than the one it is meant for.
    """
    asked = data or ActRequest()
    return await rollout_service.act(
        rollout_id, action, by=_caller(request), reason=asked.reason, stage=asked.stage
    )


@delete("/rollouts/{rollout_id:int}", guards=[requires(Scope.ADMIN)], status_code=204)
async def discard_rollout(rollout_id: int, rollout_service: RolloutService) -> None:
    """Forget a draft. 409 once it has begun: what was decided is kept."""
    await rollout_service.discard(rollout_id)


@get("/rollouts/{rollout_id:int}/decisions", guards=[requires(Scope.READ)])
async def list_decisions(rollout_id: int, rollout_service: RolloutService) -> DecisionList:
    """List all that was decided about a rollout, and what people did to it."""
    return DecisionList(await rollout_service.decisions(rollout_id))


@get("/rollouts/{rollout_id:int}/decisions/{number:int}", guards=[requires(Scope.READ)])
async def get_decision(rollout_id: int, number: int, rollout_service: RolloutService) -> DecisionView:
    """Read a decision with its receipt, which is computed again from its inputs."""
    taken, made, differs = await rollout_service.explain(rollout_id, number)
    return DecisionView(taken, made, differs, recomputed=made is not None and is_current(made))


@get("/rollouts/{rollout_id:int}/gate", guards=[requires(Scope.READ)])
async def read_gate(rollout_id: int, rollout_service: RolloutService, share: AskedShare = 1.0) -> Gate:
    """Ask whether it may go on or must go back: for Argo Rollouts' web metrics, and CI."""
    return gate(await rollout_service.get(rollout_id), share)


@post("/rollouts/{rollout_id:int}/gate/confirm", guards=[requires(Scope.READ)], status_code=200)
async def confirm_gate(
    rollout_id: int,
    rollout_service: RolloutService,
    request: Request[Any, Any, Any],
    share: AskedShare = 1.0,
) -> Gate:
    """Flagger's hooks `confirm-…`: 200 if it may go on, else 409. Any body will do."""
    await request.body()
    found = gate(await rollout_service.get(rollout_id), share)
    if not found.proceed:
        raise Conflict(f"not to be promoted: {found.reason}")
    return found


@post("/rollouts/{rollout_id:int}/gate/rollback", guards=[requires(Scope.READ)], status_code=200)
async def rollback_gate(
    rollout_id: int, rollout_service: RolloutService, request: Request[Any, Any, Any]
) -> Gate:
    """Flagger's hook `rollback`: 200 if it must go back, else 409. Any body will do."""
    await request.body()
    found = gate(await rollout_service.get(rollout_id))
    if not found.roll_back:
        raise Conflict(f"not to be rolled back: {found.reason}")
    return found


@get("/experiments/{key:str}/versions", guards=[requires(Scope.READ)])
async def list_versions(key: str, rollout_service: RolloutService) -> Lineage:
    """List the versions of an experiment, and which was the standard when, by whose decision."""
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
