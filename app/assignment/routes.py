"""Assignment over HTTP. It is the reference for `fast_path.py`, which answers plain requests.

Needs the dependency `assigner: Assigner`.
"""

from typing import Annotated, Any, Final

import msgspec
from litestar import Request, get, post
from litestar.params import Parameter

from app.access.guards import requires
from app.access.model import Scope
from app.assignment import limits, query
from app.assignment.service import Assigner, AssignmentView
from app.core.errors import InvalidInput
from app.core.limits import KEY_PATTERN, UNIT_LENGTH_MAX
from app.core.text import Key, check_storable

Unit = Annotated[str, msgspec.Meta(min_length=1, max_length=UNIT_LENGTH_MAX)]


class AssignRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Request for assignments. Without `experiments`, it means all running experiments."""

    unit: Unit
    context: dict[str, Any] = {}
    experiments: Annotated[list[Key], msgspec.Meta(max_length=limits.ASSIGN_EXPERIMENTS_MAX)] | None = None


class AssignmentList(msgspec.Struct, frozen=True):
    """Assignments, in the order of the request."""

    assignments: list[AssignmentView]


@get("/assign", guards=[requires(Scope.ASSIGN)])
async def assign_one(
    request: Request[Any, Any, Any],
    experiment: Annotated[str, Parameter(pattern=KEY_PATTERN, description="key of the experiment")],
    unit: Annotated[
        str, Parameter(min_length=1, max_length=UNIT_LENGTH_MAX, description="the unit that is served")
    ],
    assigner: Assigner,
) -> AssignmentView:
    """Return the variant that serves this unit. Send context as `context.NAME=VALUE`.

    `reason` is SPLIT (drawn), TARGETING_MATCH (drawn after the targeting admitted the unit), STICKY
    (the unit's first assignment again), NOT_TARGETED (the control), FORCED (an override) or
    DISABLED. A disabled experiment serves its control, or the winner once it is stopped. Only the
    first three reasons are recorded and analysed; the propensity of the others is 1. If the
    exposure cannot be stored in time, the answer is the same, but the analysis leaves it out.

    400 naming the feature if the policy cannot read the context. 404 if the experiment does not
    exist or is archived.
    """
    context = query.context(query.parameters(request.scope["query_string"]))
    prepared = await assigner.experiment(experiment)
    return (await assigner.assign(prepared, unit, query.typed(context, prepared.features))).view()


@post("/assign", guards=[requires(Scope.ASSIGN)], status_code=200)
async def assign_several(data: AssignRequest, assigner: Assigner) -> AssignmentList:
    """Return the variants that serve this unit, in several experiments or in all running ones.

    400 naming the feature if a policy cannot read the context; then no experiment assigns the unit.
    404 if one of the experiments does not exist or is archived.
    """
    check_storable(data.unit, "unit")
    check_storable(data.context, "context")
    _check_size(data.context)
    assignments = await assigner.assign_all(data.experiments, data.unit, data.context or None)
    return AssignmentList([assignment.view() for assignment in assignments])


def _check_size(context: dict[str, Any]) -> None:
    if len(context) > limits.CONTEXT_ENTRIES_MAX:
        raise InvalidInput(
            f"must have at most {limits.CONTEXT_ENTRIES_MAX} entries; got {len(context)}", field="context"
        )
    if (size := len(msgspec.json.encode(context))) > limits.CONTEXT_BYTES_MAX:
        detail = f"must have at most {limits.CONTEXT_BYTES_MAX} bytes of JSON; got {size}"
        raise InvalidInput(detail, field="context")


ROUTES: Final = [assign_one, assign_several]
