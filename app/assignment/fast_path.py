"""Fast path of `GET /assign`. Its reference is the handler in `routes.py`, which refuses."""

from time import perf_counter
from typing import Final

from app.access.model import Scope, credential
from app.assignment import query
from app.assignment.service import Assigner, Assignment
from app.core.errors import InvalidInput, WaldError
from app.core.fast_path import Headers, Reply
from app.core.limits import UNIT_LENGTH_MAX
from app.core.telemetry import ASSIGN_SECONDS, FastHistogram

_HEADERS: Final = ((b"content-type", b"application/json"),)


class AssignFastPath:
    """Handler of the common case. It leaves all other requests and all refusals to Litestar."""

    method = b"GET"
    path = b"/assign"
    body_bytes_max = 0

    def __init__(self, assigner: Assigner) -> None:
        self._assigner = assigner
        self.durations = FastHistogram(ASSIGN_SECONDS)

    def admits(self, headers: Headers) -> bool:
        """Return whether the caller has a valid key with the scope `assign`."""
        snapshot = self._assigner.keeper.snapshot
        if snapshot.keyring is None or snapshot.signer is None:
            return False
        try:
            now_ms = self._assigner.clock.now_ms()
            snapshot.keyring.authenticate(credential(headers), Scope.ASSIGN, now_ms)
        except WaldError:
            return False
        return True

    def answer(self, query_string: bytes, headers: Headers, body: bytes, reply: Reply) -> bool:  # noqa: ARG002
        """Call `reply` with the assignment, now or after its exposure is written."""
        begun = perf_counter()
        try:
            parameters = query.parameters(query_string)
            context = query.context(parameters)
        except WaldError:
            return False
        experiment = self._assigner.keeper.snapshot.by_key.get(parameters.get("experiment", ""))
        unit = parameters.get("unit")
        if experiment is None or not unit or len(unit) > UNIT_LENGTH_MAX:
            return False
        if experiment.published.state in {"draft", "archived"} or experiment.published.stickiness == "strict":
            return False

        def finish(assignment: Assignment) -> None:
            reply(200, _HEADERS, assignment.json())
            self.durations.observe(perf_counter() - begun)

        try:
            self._assigner.assign_soon(experiment, unit, query.typed(context, experiment.features), finish)
        except InvalidInput:  # the policy cannot read the context
            return False
        return True
