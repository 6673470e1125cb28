"""Guards of pages: who may see them, and what is shown to everyone else."""

import re
from typing import Any, Final

from litestar import Request, Response
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from app.access.guards import Access, authenticated, looked_up
from app.access.model import ApiKey, Scope, credential
from app.access.service import AccessService
from app.core.clock import SystemClock
from app.core.errors import Forbidden, TooManyRequests, Unauthorized, WaldError
from app.dashboard import session
from app.dashboard.pages import page

FORM_BYTES_MAX: Final = 32_768
REVIEW_PAGE: Final = "/review"

_CLOCK: Final = SystemClock()
_REVIEW_PATH: Final = re.compile(r"/review(/[A-Za-z0-9._-]{1,128})?")


def admits(scope: Scope) -> Guard:
    """Return a guard that admits a session or an API key with the scope, and sets `state.api_key`.

    It raises Unauthorized, also after the session was signed out; Forbidden; Unavailable;
    TooManyRequests.
    """

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        access: Access = connection.app.state.access
        token = connection.cookies.get(session.COOKIE)
        header = credential(connection.scope["headers"])
        if header is None and token is not None:
            connection.state.api_key = await looked_up(
                access, lambda keyring: session.authenticate(token, keyring, _CLOCK.now_ms(), scope)
            )
            if await sessions_of(connection).session_ended(session.identity(token).digest):
                raise Unauthorized("the session was signed out: sign in again")
        else:
            connection.state.api_key = await authenticated(connection, header, scope, _CLOCK)

    return guard


def same_site(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard a form: refuse forms of other sites. Raises Forbidden."""
    if connection.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise Forbidden("this form was sent from another site")


async def signing_in(connection: ASGIConnection[Any, Any, Any, Any], header: bytes) -> ApiKey:
    """Return the key in a header if it may read or review. Raises like `authenticated`."""
    try:
        return await authenticated(connection, header, Scope.READ, _CLOCK)
    except Forbidden as lacks_read:
        try:
            return await authenticated(connection, header, Scope.REVIEW, _CLOCK)
        except Forbidden:
            raise lacks_read from None


def start_page(key: ApiKey, wanted: str) -> str:
    """Return the page to show after a sign-in: the wanted one of the reviewers, or the first."""
    if _REVIEW_PATH.fullmatch(wanted):
        return wanted
    return "/" if Scope.READ in key.scopes else REVIEW_PAGE


def problem_page(request: Request[Any, Any, Any], error: WaldError) -> Response[str]:
    """Return an error as a page; for an error about the caller, the sign-in page."""
    if isinstance(error, Unauthorized | Forbidden | TooManyRequests):
        knocked = session.COOKIE in request.cookies or request.method == "POST"
        problem = error.detail if knocked or not isinstance(error, Unauthorized) else None
        parts = request.url.path.split("/")[:3]
        wanted = "/".join(parts) if parts[1:2] == ["review"] else ""
        answer = page("login.html", status_code=error.status, problem=problem, wanted=wanted)
        answer.headers.update(error.headers)
        return answer
    return page("problem.html", status_code=error.status, problem=error.problem())


def sessions_of(connection: ASGIConnection[Any, Any, Any, Any]) -> AccessService:
    """Return the service that knows the sessions that were signed out."""
    sessions: AccessService = connection.app.state.sessions
    return sessions
