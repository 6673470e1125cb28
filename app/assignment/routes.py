"""Assignment over HTTP: the reference for `fast_path.py`, which answers plain `GET /assign` in its stead.

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
    """`experiments`: keys; left out, every running experiment. `context`: what targeting looks at."""

    unit: Unit
    context: dict[str, Any] = {}
    experiments: Annotated[list[Key], msgspec.Meta(max_length=limits.ASSIGN_EXPERIMENTS_MAX)] | None = None


class AssignmentList(msgspec.Struct, frozen=True):
    """In the order that was asked for."""

    assignments: list[AssignmentView]


@get("/assign", guards=[requires(Scope.ASSIGN)])
async def assign_one(
    request: Request[Any, Any, Any],
    experiment: Annotated[str, Parameter(pattern=KEY_PATTERN, description="key of the experiment")],
    unit: Annotated[
        str, Parameter(min_length=1, max_length=UNIT_LENGTH_MAX, description="who or what is served")
    ],
    assigner: Assigner,
) -> AssignmentView:
    """Return which variant serves this unit. Context goes as `context.NAME=VALUE`.

    `reason` says why: SPLIT (drawn), TARGETING_MATCH (drawn, among those the targeting admits),
    STICKY (the unit's first assignment again), NOT_TARGETED (the control), FORCED (an override),
    DISABLED (draft or paused: the control; stopped: the winner, or the control). Only the first
    three are recorded and analysed; the propensity of the others is 1. When the exposure cannot be
    stored in time the answer is the same, and its id is marked unrecorded: such assignments are
    left out of analysis.

    400 naming the feature when the policy reads the context and cannot. 404 when no experiment has
    this key, or it is archived.
    """
    context = query.context(query.parameters(request.scope["query_string"]))
    found = await assigner.experiment(experiment)
    return (await assigner.assign(found, unit, query.typed(context, found.features))).view()


@post("/assign", guards=[requires(Scope.ASSIGN)], status_code=200)
async def assign_several(data: AssignRequest, assigner: Assigner) -> AssignmentList:
    """Return which variants serve this unit, in several experiments or in all that are running.

    400 naming the feature when one of their policies reads the context and cannot: then none is
    assigned. 404 when one of the experiments does not exist or is archived.
    """
    check_storable(data.unit, "unit")
    check_storable(data.context, "context")
    _check_size(data.context)
    assignments = await assigner.assign_all(data.experiments, data.unit, data.context or None)
    return AssignmentList([assignment.view() for assignment in assignments])


def _check_size(context: dict[str, Any]) -> None:
    if len(context) > limits.CONTEXT_ENTRIES_MAX:
        raise InvalidInput(
            f"at most {limits.CONTEXT_ENTRIES_MAX} entries, got {len(context)}", field="context"
        )
    if (size := len(msgspec.json.encode(context))) > limits.CONTEXT_BYTES_MAX:
        raise InvalidInput(f"at most {limits.CONTEXT_BYTES_MAX} bytes of JSON, got {size}", field="context")


ROUTES: Final = [assign_one, assign_several]
