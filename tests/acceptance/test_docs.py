"""What the documentation says is what happens: blocks marked `sh` run as pasted, tables are complete."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from app.assignment.service import Reason
from app.core.settings import Settings
from app.experiments.model import Definition
from app.feedback.model import REASONS
from tests.support.processes import eventually
from tests.support.server import Up, up

ROOT = Path(__file__).parents[2]
DOCUMENTED_URL = "http://127.0.0.1:8000"
BLOCK_S = 120
BIN = Path(sys.executable).parent


def blocks(page: str, language: str = "sh") -> str:
    """All fenced blocks of a language, in their order: later ones build on earlier ones."""
    fenced = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return "\n".join(fenced.findall((ROOT / page).read_text()))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Up:
    with up(tmp_path_factory.mktemp("docs") / "data") as server:
        yield server


@pytest.mark.parametrize(
    "page", ["README.md", "docs/tutorial.md", "docs/how-to/canary.md", "docs/reference/rollouts.md"]
)
def test_shell_blocks_run_as_pasted(page, running, tmp_path):
    script = blocks(page).replace(DOCUMENTED_URL, running.url)
    assert "curl" in script
    done = subprocess.run(
        ["bash", "-euo", "pipefail"],
        input=script.replace("curl -s", "curl --fail -sS"),
        cwd=tmp_path,
        env=os.environ | {"KEY": running.key, "PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=BLOCK_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"title"' not in done.stdout  # no problem was answered


@pytest.mark.anyio
async def test_the_tutorial_ends_with_the_winner_it_names(running):
    with running.client() as client:

        def served() -> tuple[str, str]:
            answer = client.get("/assign", params={"experiment": "summary-prompt", "unit": "anybody"}).json()
            return answer["variant"], answer["reason"]

        # The stop has been committed; servers are told within a second.
        await eventually(lambda: served() == ("short", "DISABLED"), within_s=5)


def test_a_watched_rollback_takes_ten_lines(running):
    script = blocks("docs/how-to/canary.md")
    assert len(script.strip().splitlines()) == 10
    with running.client() as client:
        (rollout,) = client.get("/rollouts", params={"experiment": "answers"}).json()["rollouts"]
        assert rollout["state"]["kind"] == "rolled_back"
        (planned,) = client.get("/rollouts", params={"experiment": "planned"}).json()["rollouts"]
        assert planned["state"]["kind"] == "draft"
        assert planned["plan"]["primary"]["metric"]["margin"]["size"] == 0.05
        assert [stage["approval"] for stage in planned["plan"]["stages"]] == [False, True, False]
        assert planned["plan"]["limits"]
        assert planned["plan"]["windows"]


def test_every_link_between_pages_leads_somewhere():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    local = re.compile(r"\]\(([^)#:]+)[^):]*\)")
    links = [(page, link) for page in pages for link in local.findall(page.read_text())]
    assert [f"{page}: {link}" for page, link in links if not (page.parent / link).exists()] == []


def test_every_setting_is_documented():
    page = (ROOT / "docs/reference/configuration.md").read_text()
    assert set(re.findall(r"^\| `(WALD_\w+)`", page, re.MULTILINE)) == {
        f"WALD_{name.upper()}" for name in Settings.__struct_fields__
    }


def test_every_field_of_a_definition_is_documented():
    page = (ROOT / "docs/reference/experiments.md").read_text()
    assert set(Definition.__struct_fields__) <= set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))


def test_every_reason_of_an_assignment_is_documented():
    page = (ROOT / "docs/reference/http-api.md").read_text()
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE)) == set(get_args(Reason))


def test_every_refusal_of_an_event_is_documented():
    page = (ROOT / "docs/reference/http-api.md").read_text()
    rows = re.findall(r"^\|[^|]*\| (`\w+`(?:, `\w+`)*) \| `([\w-]+)`, (\d+) \|$", page, re.MULTILINE)
    documented = {
        (field, kind, int(status)) for names, kind, status in rows for field in re.findall(r"\w+", names)
    }
    refusals = {(one.field, one.error.kind, one.error.status) for one in REASONS.values()}
    assert refusals <= documented


def test_json_of_the_reference_is_json():
    for page in ("docs/reference/http-api.md", "docs/reference/rewards.md"):
        for block in re.findall(r"^```json\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL):
            json.loads(block)
