"""The kill switch over HTTP. Needs the dependency `kill_switch: KillSwitch`."""

from typing import Annotated, Any, Final

import msgspec
from litestar import Request, post

from app.access.guards import requires
from app.access.model import Scope
from app.allocation.kill_switch import Killed, KillSwitch
from app.core import limits


class KillRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why; it is kept."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=limits.DESCRIPTION_LENGTH_MAX)]


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


ROUTES: Final = [kill_experiment, revive_experiment]
