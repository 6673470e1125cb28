"""The pages on a phone, in a real browser where one is installed: what a live update must leave alone."""

import asyncio
import json
import re
import shutil
import tempfile
from typing import Any

import httpx2
import pytest

from app.core.serving import Ending, serve_http
from app.core.settings import Settings
from app.server import application
from tests.support.server import free_port, listening
from tests.support.serving import ADMIN_KEY, ensure_keys

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium"),
]

NAME = "a-very-long-name-" * 7
DEFINITION = {"key": "shown", "variants": [{"key": "control", "control": True}, {"key": NAME}]}
HIDDEN = {b"content-security-policy", b"x-frame-options"}
FRAME = """<body><iframe id="frame" style="width:390px;height:1200px" src="/"></iframe><pre></pre><script>
const frame = document.getElementById("frame");
frame.onload = () => {
  const page = frame.contentDocument;
  const table = page.querySelector(".card .scroll");
  const box = table.getBoundingClientRect();
  const best = [...table.querySelectorAll("th")].find((cell) => cell.textContent === "P(best)");
  const visible = best.getBoundingClientRect().right <= box.right;
  table.scrollLeft = 90;
  page.querySelector(".card h2 a").focus();
  const tell = () => {
    if (!page.querySelector(".live").textContent.startsWith("live,")) return setTimeout(tell, 100);
    document.querySelector("pre").textContent = JSON.stringify({
      visible,
      scrolled: page.querySelector(".card .scroll").scrollLeft,
      focused: page.activeElement === page.querySelector(".card h2 a"),
      drawn: page.querySelector(".chart.js-plotly-plot") !== null,
      units: [...page.querySelectorAll(".chart .xtitle, .chart .ytitle")].map((title) => title.textContent),
      wide: page.documentElement.scrollWidth,
    });
  };
  setTimeout(tell, 2000);
};
</script>"""


def for_browser(app: Any) -> Any:
    """The application for a browser that is signed in, and a page that shows its first page in a frame."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        async def unframed(message: Any) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name.lower() not in HIDDEN]
                message = {**message, "headers": kept}
            await send(message)

        if scope["path"] == "/frame":
            headers = [(b"content-type", b"text/html")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": FRAME.encode()})
        else:
            key = (b"authorization", f"Bearer {ADMIN_KEY}".encode())
            await app({**scope, "headers": [*scope["headers"], key]}, receive, unframed)

    return answer


async def seen(url: str) -> dict[str, Any]:
    """What the frame's script finds."""
    with tempfile.TemporaryDirectory(prefix="wald-browser-") as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        browser = await asyncio.create_subprocess_exec(
            "chromium",
            *flags,
            f"--user-data-dir={profile}",
            "--virtual-time-budget=20000",
            "--dump-dom",
            url,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        output, _ = await browser.communicate()
    found = re.search(r"<pre>(\{.*\})</pre>", output.decode())
    assert found is not None, output.decode()[:2_000]
    result: dict[str, Any] = json.loads(found[1])
    return result


async def test_a_live_update_leaves_scroll_position_focus_and_chart_alone(database_url: str, valkey_url: str):
    await ensure_keys(database_url, valkey_url)
    ending, port = Ending(), free_port()
    settings = Settings(valkey_url=valkey_url, database_url=database_url)
    async with application(settings, ending) as (app, protocol):
        serving = asyncio.create_task(
            serve_http(for_browser(app), host="127.0.0.1", port=port, ending=ending, protocol=protocol)
        )
        await listening(port)
        await define(f"http://127.0.0.1:{port}")
        found = await seen(f"http://127.0.0.1:{port}/frame")
        ending.begin()
        await serving
    assert found["scrolled"] == 90
    assert found["focused"]
    assert found["drawn"]
    assert found["visible"], "P(best) is beside the variant, however long its name"
    assert found["units"][-1] == "share of traffic"
    assert found["units"][0].startswith("time (")
    assert found["wide"] <= 390, "the page itself does not scroll sideways"


async def define(url: str) -> None:
    async with httpx2.AsyncClient(base_url=url, verify=False, timeout=20) as client:
        (await client.post("/experiments", json=DEFINITION)).raise_for_status()
        (await client.post("/experiments/shown/start")).raise_for_status()
