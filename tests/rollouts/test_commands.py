"""`wald rollout` before it asks a server: what makes no sense is said in words, with exit status 2."""

import pytest
from click.testing import CliRunner

from app.cli.main import main

CREATE = ("rollout", "create", "answers", "--key", "k", "--url", "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("arguments", "plan", "reason"),
    [
        ((), None, "--canary is missing"),
        (("--canary", "v2"), None, "--guardrail is missing"),
        (("--guardrail", "error_rate", "--plan", "-"), "{}", "--canary is missing"),
        (("--plan", "-"), '["v2"]', "is not a JSON object"),
        (("--plan", "-"), '{"canaries": ["v2"]', "is not a JSON object"),
        (("--plan", "-"), b'{"reason": "\xff"}', "is not a JSON object"),
        (("--plan", "nowhere.json"), None, "nowhere.json"),
        (("--canary", "v2", "--guardrail", "error_rate", "--stage", "half"), None, "SHARE[:SECONDS]"),
    ],
)
def test_a_plan_that_is_none_is_refused_before_anything_is_sent(arguments, plan, reason):
    done = CliRunner().invoke(main, [*CREATE, *arguments], input=plan, env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert reason in done.output


def test_help_teaches_the_plan_in_a_file_and_the_exit_statuses():
    def help_of(command: str) -> str:
        return CliRunner().invoke(main, ["rollout", command, "--help"], env={"COLUMNS": "200"}).output

    assert "--plan" in help_of("create")
    assert "approval" in help_of("create")
    for command in ("gate", "watch"):
        assert all(f"{status}: " in help_of(command) for status in (0, 1, 3, 4))
