import gzip
import re

import pytest

from app.access.model import KeyKind, Scope
from app.access.service import KeyRequest
from app.experiments.model import Definition, Variant

pytestmark = pytest.mark.anyio

HOSTILE = "</script><img src=x onerror=alert(1)> \" ' & é"


def definition(key: str, **options) -> Definition:
    variants = (Variant(key="long", control=True), Variant(key="short", payload={"prompt": HOSTILE}))
    return Definition(key=key, variants=variants, **options)


async def test_a_stranger_is_asked_to_sign_in(site):
    answer = await site.browser.get("/")
    assert answer.status_code == 401
    assert answer.headers["content-type"].startswith("text/html")
    assert 'action="/login"' in answer.text
    assert 'class="problem"' not in answer.text


async def test_signing_in_opens_the_pages(site):
    answer = await site.sign_in()
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert site.key not in cookie
    assert (await site.browser.get("/")).status_code == 200


async def test_a_bearer_key_reads_without_a_session(site):
    answer = await site.browser.get("/", headers={"Authorization": f"Bearer {site.key}"})
    assert answer.status_code == 200


@pytest.mark.parametrize("key", ["wrong", "wald_srv_x", "é", "x" * 201, ""])
async def test_a_wrong_key_begins_no_session(site, key):
    answer = await site.browser.post("/login", data={"key": key})
    assert answer.status_code in {400, 401}
    assert "set-cookie" not in answer.headers


async def test_a_key_that_may_not_read_is_told_so(site):
    _, key = await site.access.create(KeyRequest(name="web", kind=KeyKind.CLIENT))
    await site.load_keys()
    answer = await site.sign_in(key)
    assert answer.status_code == 403
    assert "lacks the scope read" in answer.text


async def test_a_session_ends_with_its_key(site):
    await site.sign_in()
    await site.access.revoke(site.key_id)
    await site.load_keys()
    answer = await site.browser.get("/")
    assert answer.status_code == 401
    assert "unknown or revoked" in answer.text


async def test_signing_out_forgets_the_session(site):
    await site.sign_in()
    answer = await site.browser.post("/logout")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert (await site.browser.get("/")).status_code == 401


@pytest.mark.parametrize("path", ["/login", "/logout"])
async def test_a_form_of_another_site_is_refused(site, path):
    answer = await site.browser.post(path, data={"key": site.key}, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


async def test_without_keys_the_pages_are_unavailable(site):
    site.app.state.access.keyring = None
    answer = await site.browser.get("/")
    assert answer.status_code == 503
    assert answer.headers["content-type"].startswith("text/html")


async def test_an_empty_server_tells_how_to_begin(site):
    await site.sign_in()
    page = (await site.browser.get("/")).text
    assert "curl -X POST http://wald.test/experiments" in page


async def test_every_experiment_has_a_card(site):
    for key in ("first", "second"):
        await site.experiments.create(definition(key))
    await site.experiments.start("second")
    await site.sign_in()
    page = (await site.browser.get("/")).text
    assert re.findall(r'class="card" id="(\w+)"', page) == ["first", "second"]
    assert 'class="state running">running' in page
    assert "none yet" in page  # no rewards, no leader


async def test_what_is_missing_is_shown_as_missing(site):
    await site.experiments.create(definition("first"))
    await site.sign_in()
    card = (await site.browser.get("/dashboard/cards/first")).text
    assert "no rewards yet" in card
    assert "n/a" in card


@pytest.mark.parametrize("key", ["none", "%00", "a%0A"])
async def test_an_unknown_card_is_not_found(site, key):
    await site.sign_in()
    assert (await site.browser.get(f"/dashboard/cards/{key}")).status_code == 404


async def test_texts_of_users_are_escaped(site):
    await site.experiments.create(definition("first", description=HOSTILE))
    await site.sign_in()
    page = (await site.browser.get("/")).text
    assert "<img src=x" not in page
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in page


async def test_pages_follow_each_other_in_the_order_of_keys(site):
    for number in range(23):
        await site.experiments.create(definition(f"e{number:02}"))
    await site.sign_in()
    first = (await site.browser.get("/")).text
    assert 'href="/?after=e19"' in first
    second = (await site.browser.get("/", params={"after": "e19"})).text
    assert re.findall(r'class="card" id="(\w+)"', second) == ["e20", "e21", "e22"]
    assert (await site.browser.get("/", params={"after": "<script>"})).status_code == 400


async def test_pages_load_nothing_from_elsewhere_and_cannot_be_framed(site):
    await site.experiments.create(definition("first"))
    await site.sign_in()
    for path in ("/", "/login"):
        answer = await site.browser.get(path)
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        links = re.findall(r'(?:src|href|action)="([^"]+)"', answer.text)
        assert links
        assert all(link.startswith(("/", "#")) and not link.startswith("//") for link in links)
        assert not re.search(r"<script(?![^>]*(src=|application/json))", answer.text)


async def test_files_are_compressed_and_kept_for_good(site):
    page = (await site.browser.get("/login")).text
    await site.experiments.create(definition("first"))
    await site.sign_in()
    page += (await site.browser.get("/")).text
    addresses = set(re.findall(r'"(/dashboard/assets/[^"]+)"', page))
    names = {address.rpartition("/")[2] for address in addresses}
    assert names == {"dashboard.css", "live.js", "login.js", "plotly.min.js", "wald.svg"}
    for address in addresses:
        plain = await site.browser.get(address, headers={"Accept-Encoding": "identity"})
        async with site.browser.stream("GET", address, headers={"Accept-Encoding": "gzip"}) as zipped:
            raw = b"".join([chunk async for chunk in zipped.aiter_raw()])
        assert zipped.headers["content-encoding"] == "gzip"
        assert gzip.decompress(raw) == plain.content
        assert "immutable" in plain.headers["cache-control"]


@pytest.mark.parametrize("address", ["0000/live.js", "0000/..%2Froutes.py", "x/y"])
async def test_other_files_are_not_there(site, address):
    answer = await site.browser.get(f"/dashboard/assets/{address}")
    assert answer.status_code == 404


async def test_a_key_without_the_scope_reads_nothing(site):
    only = frozenset({Scope.ASSIGN})
    _, key = await site.access.create(KeyRequest(name="assigns", kind=KeyKind.SERVER, scopes=only))
    await site.load_keys()
    answer = await site.browser.get("/", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 403
