"""The pages of reviewers: everything works by forms, and nothing in a response is executed."""

import re
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import NamedTuple

import httpx2
import pytest
from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.access.model import KeyKind, KeyRing, Scope
from app.access.service import AccessService, KeyRequest
from app.access.store import AccessStore
from app.core.clock import SystemClock
from app.core.http import EXCEPTION_HANDLERS
from app.dashboard.review_routes import ROUTES as REVIEW_PAGES
from app.dashboard.routes import ROUTES
from tests.reviews.conftest import KEY, Reviewed

pytestmark = pytest.mark.anyio

HOSTILE = "</div><script>alert(1)</script><img src=x onerror=alert(1)> &amp; \u202e\u05d0\u05d1"


class Site(NamedTuple):
    browser: httpx2.AsyncClient
    access: AccessService
    state: State
    key_id: int


@pytest.fixture
async def site(reviewed: Reviewed, engine: AsyncEngine, valkey: Redis) -> AsyncIterator[Site]:
    store = AccessStore(engine, valkey)
    access = AccessService(store, SystemClock())
    await access.ensure_signing_key()
    stored, key = await access.create(KeyRequest(name="ann", scopes=frozenset({Scope.REVIEW})))
    assert stored.kind is KeyKind.SERVER

    async def no_newer_keys() -> bool:
        return True

    state = State(
        {
            "access": SimpleNamespace(keyring=KeyRing(await store.snapshot()), load_access=no_newer_keys),
            "sessions": access,
        }
    )
    app = Litestar(
        [*ROUTES, *REVIEW_PAGES],
        dependencies={
            "review_service": Provide(lambda: reviewed.service, sync_to_thread=False),
            "experiment_service": Provide(lambda: None, sync_to_thread=False),
            "analysis": Provide(lambda: None, sync_to_thread=False),
        },
        state=state,
        exception_handlers=EXCEPTION_HANDLERS,
        openapi_config=None,
    )
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://wald.test") as browser:
        answer = await browser.post("/login", data={"key": key})
        assert (answer.status_code, answer.headers["location"]) == (303, "/review")
        yield Site(browser, access, state, stored.id)


def fields(page: str) -> dict[str, str]:
    """Return the path of the form and the lease that it carries."""
    path = re.search(r'class="answer" method="post" action="([^"]+)"', page)
    lease = re.search(r'name="lease" value="([^"]*)"', page)
    assert path is not None, page
    assert lease is not None
    return {"path": path[1], "lease": lease[1]}


async def opened(site: Site, reviewed: Reviewed, n: int = 1, text: str = "an answer", **settings):
    await reviewed.put(**({"rate": 1.0} | settings))
    await reviewed.respond(n, text=text)
    await reviewed.draw()
    answer = await site.browser.get(f"/review/{KEY}")
    assert answer.status_code == 200, answer.text
    return answer.text


async def test_a_reviewer_answers_undoes_and_finishes(site: Site, reviewed: Reviewed):
    page = await opened(site, reviewed, 2, rubric="Is it right?")
    assert "Is it right?" in page
    assert "0 reviewed by you, 2 to review" in page
    form = fields(page)
    data = {"lease": form["lease"], "label": "3", "comment": "fine", "seconds": "2.5"}
    answer = await site.browser.post(form["path"], data=data)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/review/{KEY}")
    page = (await site.browser.get(f"/review/{KEY}")).text
    assert "1 reviewed by you, 1 to review" in page
    undo = re.search(r'class="undo" href="([^"]+)"', page)
    assert undo is not None
    assert undo[1] == form["path"]
    before = (await site.browser.get(undo[1])).text
    assert re.search(r'value="3" required\s*checked', before)
    assert fields(before)["lease"] == ""
    await site.browser.post(form["path"], data={"label": "1"})
    second = fields(page)
    await site.browser.post(second["path"], data={"lease": second["lease"], "reason": "not my language"})
    done = await site.browser.get(f"/review/{KEY}")
    assert "All done for now" in done.text
    (label,) = await reviewed.store.labels(reviewed.experiment.id)
    assert (label.label, label.n_reviewers) == (1.0, 1)


async def test_a_response_is_text_and_never_markup(site: Site, reviewed: Reviewed):
    page = await opened(site, reviewed, text=HOSTILE, rubric=HOSTILE, labels={1: "<b>", 2: "\u05d8"})
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&amp;amp;" in page
    assert page.count('dir="auto"') >= 3


async def test_pages_load_nothing_from_elsewhere_and_allow_no_inline_script(site: Site, reviewed: Reviewed):
    await opened(site, reviewed)
    answer = await site.browser.get(f"/review/{KEY}")
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "default-src 'none'" in policy
    for address in re.findall(r'(?:src|href|action)="([^"]+)"', answer.text):
        assert address.startswith("/"), address
    for address in re.findall(r'(?:src|href)="(/dashboard/assets/[^"]+)"', answer.text):
        assert (await site.browser.get(address)).status_code == 200
    assert not re.search(r"<script(?! type=\"module\" src=)", answer.text)
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("text", "shown"), [("", "The response is empty."), (" \n\t", "The response is empty.")]
)
async def test_an_empty_response_says_so(site: Site, reviewed: Reviewed, text: str, shown: str):
    assert shown in await opened(site, reviewed, text=text)


async def test_a_page_tells_neither_variant_nor_model_nor_queue(site: Site, reviewed: Reviewed):
    page = await opened(site, reviewed)
    for hidden in ("control", "model-of-the-variant", "sample", "resp-", "disagreement"):
        assert hidden not in page, hidden


async def test_an_ended_lease_says_that_the_answer_was_not_stored(site: Site, reviewed: Reviewed):
    form = fields(await opened(site, reviewed))
    for lease in await reviewed.claims.active_leases():
        await reviewed.claims.end(lease)
    renewed = await site.browser.post(f"/review/{KEY}/renew")
    assert renewed.status_code == 409
    await reviewed.service.claim("key:999")
    answer = await site.browser.post(form["path"], data={"lease": form["lease"], "label": "2"})
    assert answer.status_code == 409
    assert "This response is no longer yours" in answer.text
    assert "was not stored" in answer.text


async def test_a_page_in_view_keeps_its_lease(site: Site, reviewed: Reviewed):
    await opened(site, reviewed)
    (before,) = await reviewed.claims.active_leases()
    assert (await site.browser.post(f"/review/{KEY}/renew")).status_code == 204
    assert not await reviewed.claims.end(before)


async def test_a_session_that_has_ended_returns_to_the_page_after_signing_in(site: Site, reviewed: Reviewed):
    form = fields(await opened(site, reviewed))
    await site.access.revoke(site.key_id)
    site.state.access.keyring = KeyRing(await site.access._store.snapshot())
    answer = await site.browser.post(form["path"], data={"lease": form["lease"], "label": "2"})
    assert answer.status_code == 401
    assert f'name="next" value="/review/{KEY}"' in answer.text
    assert "scope review" in answer.text


async def test_signing_in_never_leads_to_another_site(site: Site):
    _, key = await site.access.create(KeyRequest(name="bob", scopes=frozenset({Scope.REVIEW, Scope.READ})))
    site.state.access.keyring = KeyRing(await site.access._store.snapshot())
    for wanted, expected in (
        ("//evil.example", "/"),
        ("/review/../keys", "/"),
        ("/review/a/b", "/"),
        (f"/review/{KEY}", f"/review/{KEY}"),
        ("", "/"),
    ):
        answer = await site.browser.post("/login", data={"key": key, "next": wanted})
        assert (answer.status_code, answer.headers["location"]) == (303, expected)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"label": "x"},
        {"label": "99"},
        {"label": "9"},
        {"reason": "  "},
        {"label": "2", "comment": "x" * 5_000},
        {"label": "\u0662"},
    ],
)
async def test_a_form_without_a_valid_answer_is_refused_as_a_page(site: Site, reviewed: Reviewed, data):
    form = fields(await opened(site, reviewed))
    answer = await site.browser.post(form["path"], data={"lease": form["lease"]} | data)
    assert answer.status_code == 400
    assert await reviewed.store.labels(reviewed.experiment.id) == []


async def test_forms_of_other_sites_are_refused(site: Site, reviewed: Reviewed):
    form = fields(await opened(site, reviewed))
    headers = {"Sec-Fetch-Site": "cross-site"}
    answer = await site.browser.post(
        form["path"], data={"lease": form["lease"], "label": "2"}, headers=headers
    )
    assert answer.status_code == 403
    assert await reviewed.store.labels(reviewed.experiment.id) == []


async def test_an_unknown_experiment_is_a_page(site: Site):
    answer = await site.browser.get("/review/nope")
    assert answer.status_code == 404
    assert "All experiments" in answer.text
    assert "Nothing to review" in (await site.browser.get("/review")).text


async def test_signing_out_ends_the_session_of_a_reviewer(site: Site, reviewed: Reviewed):
    await opened(site, reviewed)
    cookie = dict(site.browser.cookies)
    await site.browser.post("/logout")
    site.browser.cookies.clear()
    site.browser.cookies.update(cookie)
    assert (await site.browser.get("/review")).status_code == 401
