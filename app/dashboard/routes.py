"""The pages. They need the dependencies `experiment_service`, `analysis` and `quality`.

`app.state.sessions` has to be the `AccessService`, which knows the sessions that were signed out.

Readers sign in with an API key that has the scope `read`, or send it as `Authorization: Bearer`.
"""

import asyncio
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import Cookie
from litestar.enums import RequestEncodingType
from litestar.params import Body
from litestar.response import Redirect

from app.access.model import KeyRing, Scope
from app.analysis.service import AnalysisService
from app.core.clock import SystemClock
from app.core.errors import Forbidden, InvalidInput, Unauthorized, Unavailable, WaldError
from app.dashboard import assets, session
from app.dashboard.card import Card
from app.dashboard.chart import STEPS, Chart, Unit, step_of
from app.dashboard.pages import PAGE_HEADERS, first_steps, page
from app.dashboard.sign_in_guards import (
    FORM_BYTES_MAX,
    admits,
    problem_page,
    same_site,
    sessions_of,
    signing_in,
    start_page,
)
from app.experiments.model import Experiment
from app.experiments.service import ExperimentService
from app.quality.model import Question
from app.quality.service import QualityService

CARDS_PER_PAGE: Final = 20
ASSET_HEADERS: Final = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}

_CLOCK: Final = SystemClock()
AnyRequest = Request[Any, Any, Any]


class LoginForm(msgspec.Struct, frozen=True):
    """The body of `POST /login`. `next` is the page that asked for it."""

    key: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    next: str = ""


reads: Final = admits(Scope.READ)
"""Guard of a page: a session, or a key, that may read."""

_PAGE: Final[dict[str, Any]] = {
    "include_in_schema": False,
    "exception_handlers": {WaldError: problem_page},
}


@get("/", guards=[reads], **_PAGE)
async def first_page(
    request: AnyRequest,
    experiment_service: ExperimentService,
    analysis: AnalysisService,
    after: str | None = None,
) -> Response[str]:
    """Show experiments in the order of their keys, each with its chart and table."""
    found, following = await experiment_service.list(after=after, limit=CARDS_PER_PAGE)
    cards = await asyncio.gather(*(_card(experiment, analysis) for experiment in found))
    return page(
        "index.html", cards=cards, after=after, following=following, first_steps=first_steps(request.base_url)
    )


@get("/dashboard/cards/{key:str}", guards=[reads], **_PAGE)
async def card(key: str, experiment_service: ExperimentService, analysis: AnalysisService) -> Response[str]:
    """Return the card of one experiment, to update a page that shows it."""
    return page("card.html", card=await _card(await experiment_service.get(key), analysis))


@get("/dashboard/experiments/{key:str}", guards=[reads], **_PAGE)
async def experiment_page(
    key: str,
    experiment_service: ExperimentService,
    analysis: AnalysisService,
    quality: QualityService,
    step_s: int | None = None,
) -> Response[str]:
    """Show one experiment: its card, its quality, and its metrics over time.

    400 for steps other than those offered.
    """
    experiment = await experiment_service.get(key)
    if step_s is not None and step_s not in STEPS:
        raise InvalidInput(f"must be one of {', '.join(map(str, STEPS))}; got {step_s}", field="step_s")
    step = step_s or step_of(getattr(experiment.state, "started_at", None), _CLOCK.now())
    definition = experiment.definition
    charts = [
        Chart.of(series, Unit.of(definition, series.metric))
        for series in await analysis.all_series(experiment, step)
    ]
    shown = await _card(experiment, analysis)
    report = await quality.report(key, Question())
    return page("experiment.html", card=shown, quality=report, charts=charts, step=step, steps=STEPS)


@get("/login", **_PAGE)
async def login_form() -> Response[str]:
    """Show the sign-in form. `/login#KEY` sends itself; the browser does not send the part behind #."""
    return page("login.html", problem=None, wanted="")


@post("/login", guards=[same_site], request_max_body_size=FORM_BYTES_MAX, status_code=303, **_PAGE)
async def login(
    request: AnyRequest, data: Annotated[LoginForm, Body(media_type=RequestEncodingType.URL_ENCODED)]
) -> Redirect:
    """Start a session of the holder of an API key. 401, 403 and 429 show the form again.

    The key needs the scope `read`, or the scope `review` for the pages of reviewers alone.
    """
    key = await signing_in(request, b"Bearer " + data.key.strip().encode())
    if (refusals := request.app.state.get("refusals")) is not None:
        refusals.sign_in(key)
    keyring, now_ms = _keyring(request), _CLOCK.now_ms()
    cookie = Cookie(
        key=session.COOKIE,
        value=session.issue(key, keyring, now_ms),
        max_age=session.SESSION_S,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return Redirect(start_page(key, data.next), status_code=303, cookies=[cookie], headers=PAGE_HEADERS)


@post("/logout", guards=[same_site], request_max_body_size=FORM_BYTES_MAX, status_code=303, **_PAGE)
async def logout(request: AnyRequest) -> Redirect:
    """End the session in this browser and on every server, which then refuse copies of the cookie."""
    token = request.cookies.get(session.COOKIE)
    if token is not None and _is_signed(token, request):
        await sessions_of(request).end_session(*session.identity(token))
    gone = Cookie(
        key=session.COOKIE,
        value="",
        max_age=0,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return Redirect("/login", status_code=303, cookies=[gone], headers=PAGE_HEADERS)


@get(f"{assets.PATH}/{{fingerprint:str}}/{{name:str}}", include_in_schema=False)
async def asset(request: AnyRequest, fingerprint: str, name: str) -> Response[bytes]:
    """Return a file of the pages. Its address changes with its contents; 404 for any other address."""
    found = await asyncio.to_thread(assets.load, fingerprint, name)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers = ASSET_HEADERS | {"Content-Encoding": "gzip"}
        return Response(found.zipped, media_type=found.media_type, headers=headers)
    return Response(found.plain, media_type=found.media_type, headers=ASSET_HEADERS)


async def _card(experiment: Experiment, analysis: AnalysisService) -> Card:
    return Card.of(experiment, await analysis.status(experiment.key), _CLOCK.now())


def _is_signed(token: str, request: AnyRequest) -> bool:
    """Return whether a session is valid. Of an invalid session, nothing needs to be stored."""
    for scope in (Scope.READ, Scope.REVIEW):
        try:
            session.authenticate(token, _keyring(request), _CLOCK.now_ms(), scope)
        except Forbidden:
            continue
        except Unauthorized:
            return False
        else:
            return True
    return False


def _keyring(connection: ASGIConnection[Any, Any, Any, Any]) -> KeyRing:
    keyring: KeyRing | None = connection.app.state.access.keyring
    if keyring is None:
        raise Unavailable("API keys are not loaded yet")
    return keyring


ROUTES: Final = [first_page, card, experiment_page, login_form, login, logout, asset]
