"""What the documentation says is what happens: blocks marked `sh` run as pasted, tables are complete."""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import httpx2
import psutil
import pytest
from psutil import pid_exists

from app.assignment.decide import Reason
from app.core.settings import Settings
from app.experiments.model import Definition
from app.feedback.model import REASONS
from tests.support.clone import fresh_clone
from tests.support.deployment import clean_environment, empty_database
from tests.support.polling import eventually
from tests.support.server import free_port

pytestmark = pytest.mark.timeout(400)
ROOT = Path(__file__).parents[2]
DOCUMENTED_ADDRESS = "127.0.0.1:8000"
BLOCK_S = 300
PAGES = [
    "README.md",
    "docs/tutorial.md",
    "docs/how-to/canary.md",
    "docs/reference/rollouts.md",
    *sorted(
        str(page.relative_to(ROOT))
        for page in (ROOT / "docs/how-to").glob("*.md")
        if page.stem not in {"canary", "manage-keys", "run-in-production"}
    ),
    "docs/how-to/manage-keys.md",  # retires the signing key of what came before
]
"""In the order in which a reader comes to them; those on engines of one's own have a test of their own."""
ENGINES = {
    "redis://valkey:6379/0": "valkey",
    "postgresql://wald:PASSWORD@postgres:5432/wald": "database",
}
NOT_RUN = re.compile(r"<!-- not run: (.{10,}) -->")
PRELUDE = """
background() {  # what goes on until it is stopped: start it, and wait until it is ready
    "$@" >> "$LOGS" 2>&1 &
    echo $! >> "$PIDS"
    if [ "$2" = worker ]; then return; fi
    for _ in $(seq 1200); do
        if curl --fail -s "http://$ADDRESS/ready" > /dev/null; then return; fi
        sleep 0.1
    done
    echo "not ready: $*" >&2
    exit 1
}
"""
GOES_ON = re.compile(r"^(make run|wald serve|wald worker)\b", re.MULTILINE)


def blocks(page: str, language: str = "sh") -> str:
    """All fenced blocks of a language that run here, in their order: later ones build on earlier ones."""
    fenced = re.compile(rf"^(<!-- .* -->\n)?```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return "\n".join(
        block
        for mark, block in fenced.findall((ROOT / page).read_text())
        if not NOT_RUN.fullmatch(mark.strip())
    )


class Reader:
    """Someone who has cloned the repository and pastes what the pages say into a shell."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = fresh_clone(folder)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._pids, self.log = folder / "pids", folder / "log"
        self._pids.touch()
        self._environment = clean_environment(
            PATH=f"{self.folder / '.venv/bin'}:{os.environ['PATH']}",
            PORT=str(self.port),
            WALD_PORT=str(self.port),
            WALD_URL=self.url,
            ADDRESS=f"127.0.0.1:{self.port}",
            LOGS=str(self.log),
            PIDS=str(self._pids),
            **variables,
        )

    @property
    def key(self) -> str:
        """The admin key of the clone's data folder."""
        return (self.folder / ".wald/admin-key").read_text().strip()

    def client(self) -> httpx2.Client:
        """A client with the admin key."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=10, verify=False)

    def paste(self, page: str, replaced: dict[str, str] | None = None) -> str:
        """Run the blocks of a page in one shell; what they print. An error of any line is one."""
        script = blocks(page).replace(DOCUMENTED_ADDRESS, f"127.0.0.1:{self.port}")
        for documented, real in (replaced or {}).items():
            script = script.replace(documented, f"'{real}'")
        script = GOES_ON.sub(r"background \1", script).replace("curl -s", "curl --fail -sS")
        setup = PRELUDE
        if (self.folder / ".wald/admin-key").exists():
            setup += f"export KEY={self.key}\n"
        done = subprocess.run(
            ["bash", "-euo", "pipefail"],
            input=setup + script,
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=BLOCK_S,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.log.read_text()}"
        assert '"title"' not in done.stdout  # no problem was answered
        return done.stdout

    def stop(self) -> None:
        """End what goes on, in order."""
        processes = [
            psutil.Process(int(pid)) for pid in self._pids.read_text().split() if pid_exists(int(pid))
        ]
        for process in processes:
            process.terminate()
        _, alive = psutil.wait_procs(processes, timeout=60)
        assert alive == []


@pytest.fixture(scope="module")
def reader(anyio_backend) -> Iterator[Reader]:
    """Return a reader whose engines are embedded: `make run` of the README starts them."""
    with tempfile.TemporaryDirectory(prefix="wald-docs-") as folder:
        Path(folder).chmod(0o711)
        someone = Reader(Path(folder), {"DEMO": ""})
        try:
            yield someone
        finally:
            someone.stop()


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs_as_pasted_in_a_fresh_clone(page, reader):
    assert blocks(page)
    reader.paste(page)


def test_every_page_that_guides_has_only_blocks_that_can_be_pasted():
    for page in (*PAGES, "docs/how-to/run-in-production.md"):
        text = (ROOT / page).read_text()
        assert "```console" not in text, page
        assert "\n$ " not in text, page
        assert "wald[" not in text, page


def test_engines_of_ones_own_are_used_as_the_page_says(engines, valkey_url, tmp_path):
    with empty_database(engines.database_url, "wald_docs") as database_url:
        someone = Reader(tmp_path, {})
        real = {"valkey": valkey_url, "database": database_url}
        try:
            someone.paste(
                "docs/how-to/run-in-production.md",
                {documented: real[engine] for documented, engine in ENGINES.items()},
            )
        finally:
            someone.stop()
        assert [entry.name for entry in (someone.folder / ".wald").iterdir()] == ["snapshot"], "no engine"


@pytest.mark.anyio
async def test_the_tutorial_ends_with_the_winner_it_names(reader):
    with reader.client() as client:

        def served() -> tuple[str, str]:
            answer = client.get("/assign", params={"experiment": "summary-prompt", "unit": "anybody"}).json()
            return answer["variant"], answer["reason"]

        # The stop has been committed; servers are told within a second.
        await eventually(lambda: served() == ("short", "DISABLED"), within_s=5)


def test_a_watched_rollback_takes_ten_lines(reader):
    script = blocks("docs/how-to/canary.md")
    assert len(script.strip().splitlines()) == 10
    with reader.client() as client:
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
