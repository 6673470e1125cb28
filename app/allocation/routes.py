"""Freezes over HTTP. Needs the dependency `allocation_service: AllocationService`."""

from typing import Any, Final

import msgspec
from litestar import Request, get, post

from app.access.guards import requires
from app.access.model import Scope
from app.allocation.freezes import Freeze, Reason
from app.allocation.service import AllocationService
from app.core.text import check_storable


class UnfreezeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why the policy may learn from these data all the same."""

    reason: Reason


class Freezes(msgspec.Struct, frozen=True):
    """Times in which a policy did not learn, the newest first."""

    freezes: list[Freeze]


@post("/experiments/{key:str}/unfreeze", guards=[requires(Scope.ADMIN)], status_code=200)
async def unfreeze_experiment(
    request: Request[Any, Any, Any], key: str, data: UnfreezeRequest, allocation_service: AllocationService
) -> Freeze:
    """Let a frozen policy learn again, for a reason that is kept. 409 unless it is frozen."""
    check_storable(data.reason, "reason")
    check_storable(key, "key")
    return await allocation_service.unfreeze(key, data.reason, key_id=request.state.api_key.id)


@get("/experiments/{key:str}/freezes", guards=[requires(Scope.READ)])
async def list_freezes(key: str, allocation_service: AllocationService) -> Freezes:
    """Read when the policy did not learn, why, and who let it go on."""
    check_storable(key, "key")
    return Freezes(await allocation_service.freezes(key))


ROUTES: Final = [unfreeze_experiment, list_freezes]
