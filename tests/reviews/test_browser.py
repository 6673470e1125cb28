"""The page of a reviewer in a real browser: keys, a phone, hostile texts."""

import json
import shutil
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from playwright.async_api import Browser, Page, async_playwright

from app.core.clock import SystemClock
from app.core.postgres import create_engine
from app.experiments.model import Definition, Variant
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from app.responses.store import ResponseStore
from app.reviews.model import ReviewSettings
from app.reviews.sample_store import SampleStore
from app.reviews.store import ReviewStore
from tests.reviews.conftest import KEY, respond
from tests.support.clocks import SettableClock
from tests.support.serving import ADMIN_KEY, Served, ensure_keys, served

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.anyio, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
HOSTILE = "\n".join(
    [
        "<script>document.title = 'hacked'</script><img src=x onerror=\"document.title = 'hacked'\">",
        "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
        "x" * 3_000,
        "\tdef f():\n\t\treturn 1",
    ]
)
RUBRIC = "3: correct and polite\n1: wrong"


@pytest.fixture
async def server(database_url: str, valkey_url: str) -> AsyncIterator[Served]:
    """Run a server with an experiment whose three responses are sampled."""
    await ensure_keys(database_url, valkey_url)
    engine, clock = create_engine(database_url), SettableClock()

    async def unpublished(_: int) -> None:
        """Do without a worker."""

    experiments = ExperimentService(ExperimentStore(engine), SystemClock(), unpublished)
    definition = Definition(key=KEY, variants=(Variant("control", control=True), Variant("short")))
    experiment = await experiments.create(definition)
    await respond(database_url, experiment, clock, 3, text=HOSTILE)
    settings = ReviewSettings(rate=1.0, rubric=RUBRIC)
    await ReviewStore(engine).put_settings(experiment.id, settings, clock.now())
    await SampleStore(engine, ResponseStore(engine)).sample(experiment.id, clock.now())
    async with served(database_url, valkey_url) as running:
        yield running
    await engine.dispose()


@pytest.fixture
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        await running.close()


async def signed_in(browser: Browser, server: Served, **options: Any) -> tuple[Page, list[str]]:
    """Return a page with the first response, and the list of errors in its console."""
    context = await browser.new_context(**options)
    page = await context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(f"{server.url}/review/{KEY}")
    complaints.clear()  # the browser reports the 401 of a stranger
    await page.fill("#key", ADMIN_KEY)
    await page.click("button.primary")
    await page.wait_for_selector(".review")
    await page.wait_for_load_state("load")  # the page's script has run, so keys have an effect
    return page, complaints


async def labels(server: Served) -> list[tuple[int | None, str]]:
    """Return the label and comment of each answer, in the order of the items' ids."""
    async with server.client() as client:
        answer = await client.get(f"/experiments/{KEY}/reviews/export?format=jsonl")
    return [(row["label"], row["comment"]) for row in map(json.loads, answer.text.splitlines())]


async def test_keys_alone_answer_comment_skip_and_undo(browser: Browser, server: Served):
    page, complaints = await signed_in(browser, server)
    await page.keyboard.press("?")
    assert await page.is_visible("dialog")
    await page.keyboard.press("?")
    assert not await page.is_visible("dialog")
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("ArrowRight")
    assert await page.is_checked("input[name=label][value='2']")
    await page.keyboard.press("3")
    await page.keyboard.press("c")
    await page.keyboard.type("good 1 s u")
    await page.keyboard.press("Escape")
    async with page.expect_navigation():
        await page.keyboard.press("Enter")
    await page.wait_for_selector("text=1 reviewed by you")
    async with page.expect_navigation():
        await page.keyboard.press("u")
    assert await page.is_checked("input[name=label][value='3']")
    await page.keyboard.press("1")
    async with page.expect_navigation():
        await page.keyboard.press("Enter")
    await page.keyboard.press("s")
    await page.keyboard.press("Tab")
    async with page.expect_navigation():
        await page.keyboard.press("Enter")
    await page.keyboard.press("2")
    async with page.expect_navigation():
        await page.keyboard.press("Enter")
    await page.wait_for_selector("text=All done for now")
    assert sorted(await labels(server), key=str) == [(1, "good 1 s u"), (2, ""), (None, "")]
    assert complaints == []


async def test_hostile_long_and_right_to_left_texts_stay_text_on_a_phone(browser: Browser, server: Served):
    page, complaints = await signed_in(browser, server, viewport={"width": 390, "height": 780})
    assert await page.title() == "Review \u00b7 Wald"
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    shown = await page.inner_text(".response")
    assert "<script>document.title = 'hacked'</script>" in shown
    assert "\t\treturn 1" in shown
    assert await page.locator(".response *").count() == 0
    async with page.expect_navigation():
        await page.click("label:has([value='2'])")
        await page.click(".answer > button")
    assert await labels(server) == [(2, "")]
    assert complaints == []


async def test_the_page_works_without_scripts(browser: Browser, server: Served):
    page, _ = await signed_in(browser, server, java_script_enabled=False)
    assert not await page.is_visible("button.help")
    await page.check("input[name=label][value='1']")
    async with page.expect_navigation():
        await page.click(".answer > button")
    assert await labels(server) == [(1, "")]


async def test_a_lost_lease_and_a_lost_session_are_said_before_saving(browser: Browser, server: Served):
    page, _ = await signed_in(browser, server)
    async with httpx2.AsyncClient(verify=False) as client:
        bearer = {"Authorization": f"Bearer {ADMIN_KEY}"}
        claim = await client.post(f"{server.url}/reviews/claim", headers=bearer, json={"experiment": KEY})
        item = claim.json()["item"]
        path = f"{server.url}/reviews/{item['item']}/release"
        await client.post(path, headers=bearer, json={"lease": item["lease"]})
    await page.check("input[name=label][value='1']")
    await page.click(".answer > button")
    await page.wait_for_selector("text=This response is no longer yours")
    await page.context.clear_cookies()
    await page.click("text=Next response")
    await page.wait_for_selector("#key")
    await page.fill("#key", ADMIN_KEY)
    await page.click("button.primary")
    await page.wait_for_selector(".review")
