"""The kill switch, and freezes, over HTTP.

Needs the dependencies `kill_switch: KillSwitch` and `allocation_service: AllocationService`.
"""

from typing import Any, Final

import msgspec
from litestar import Request, get, post

from app.access.guards import requires
from app.access.model import Scope
from app.allocation.freezes import Freeze, Reason
from app.allocation.kill_switch import Killed, KillSwitch
from app.allocation.service import AllocationService
from app.core.text import check_reason


class KillRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reason, which is stored."""

    reason: Reason


@post("/experiments/{key:str}/kill", guards=[requires(Scope.ADMIN)], status_code=200)
async def kill_experiment(
    key: str, data: KillRequest, request: Request[Any, Any, Any], kill_switch: KillSwitch
) -> Killed:
    """Answer the control everywhere within a second, also while PostgreSQL is away."""
    return await kill_switch.kill(key, by=f"key {request.state.api_key.id}", reason=data.reason)


@post("/experiments/{key:str}/revive", guards=[requires(Scope.ADMIN)], status_code=200)
async def revive_experiment(
    key: str, data: KillRequest, request: Request[Any, Any, Any], kill_switch: KillSwitch
) -> Killed:
    """End a kill: serve again as the experiment says. 503 while an engine is away."""
    return await kill_switch.revive(key, by=f"key {request.state.api_key.id}", reason=data.reason)


class UnfreezeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reason why the policy may learn from these data nevertheless."""

    reason: Reason


class Freezes(msgspec.Struct, frozen=True):
    """Times in which a policy did not learn, the newest first."""

    freezes: list[Freeze]


@post("/experiments/{key:str}/unfreeze", guards=[requires(Scope.ADMIN)], status_code=200)
async def unfreeze_experiment(
    request: Request[Any, Any, Any], key: str, data: UnfreezeRequest, allocation_service: AllocationService
) -> Freeze:
    """Let a frozen policy learn again, for a reason that is kept. 409 unless it is frozen."""
    reason = check_reason(data.reason)
    return await allocation_service.unfreeze(key, reason, key_id=request.state.api_key.id)


@get("/experiments/{key:str}/freezes", guards=[requires(Scope.READ)])
async def list_freezes(key: str, allocation_service: AllocationService) -> Freezes:
    """Read when the policy did not learn, why, and who let it go on."""
    return Freezes(await allocation_service.freezes(key))


ROUTES: Final = [kill_experiment, revive_experiment, unfreeze_experiment, list_freezes]
