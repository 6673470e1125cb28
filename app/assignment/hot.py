"""The outermost ASGI function: answers plain `GET /assign` itself and passes everything else on.

It knows no errors. A request it cannot serve at once (odd in any way, unauthorised, of an unknown experiment)
goes to the framework, whose handler in `routes.py` gives the same answers, and all the refusals.
"""

from collections.abc import Sequence
from time import perf_counter
from typing import Any, Final

from app.access.model import Scope, credential
from app.assignment import query
from app.assignment.service import Assigner
from app.core import limits
from app.core.errors import WaldError
from app.core.serving import ASGIApp
from app.core.telemetry import ASSIGN_SECONDS, FastHistogram


class HotAssign:
    """`app` with a short way for `GET /assign`. `headers` are added to its answers."""

    def __init__(
        self, app: ASGIApp, assigner: Assigner, *, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        self._app = app
        self._assigner = assigner
        self._headers: Final = (*headers, (b"content-type", b"application/json"))
        self.durations = FastHistogram(ASSIGN_SECONDS)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Of ASGI."""
        if scope["type"] == "http" and scope["path"] == "/assign" and scope["method"] == "GET":
            begun = perf_counter()
            answer = await self._answer(scope)
            if answer is not None:
                length = b"content-length", b"%d" % len(answer)
                headers = [*self._headers, length]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": answer})
                self.durations.observe(perf_counter() - begun)
                return
        await self._app(scope, receive, send)

    async def _answer(self, scope: Any) -> bytes | None:
        """The body, or None where the framework has to answer."""
        assigner = self._assigner
        snapshot = assigner.keeper.snapshot
        if snapshot.keyring is None or snapshot.signer is None:
            return None
        try:
            header = credential(scope["headers"])
            snapshot.keyring.authenticate(header, Scope.ASSIGN, assigner.clock.now_ms())
            parameters = query.parameters(scope["query_string"])
            context = query.context(parameters)
        except WaldError:
            return None
        experiment = snapshot.by_key.get(parameters.get("experiment", ""))
        unit = parameters.get("unit")
        if experiment is None or not unit or len(unit) > limits.UNIT_LENGTH_MAX:
            return None
        if experiment.published.state in {"draft", "archived"}:
            return None
        return (await assigner.assign(experiment, unit, context)).json()
