"""Judge versions: what may exist, and what identifies one."""

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.judging.judges.labels import LabelSet
from app.judging.judges.model import (
    KINDS,
    DecisionVersion,
    Judged,
    JudgeVersion,
    LlmVersion,
    Operation,
    PluginVersion,
    Reason,
    RuleVersion,
    version_hash,
)
from app.judging.judges.prices import Price
from app.judging.judges.rules import NotEmpty
from app.judging.judges.templates import filled, placeholders

LLM = {
    "kind": "llm",
    "name": "correct",
    "base_url": "http://127.0.0.1:9/v1",
    "model": "m",
    "rubric": "The answer is correct.",
}


def decoded(**fields):
    return msgspec.convert(fields, JudgeVersion)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (LLM | {"template": "Judge {{respons}}"}, "did you mean response"),
        (LLM | {"template": "Judge {{response}} of {{modle}}"}, "unknown placeholder {{modle}}"),
        (LLM | {"template": "Judge {{ prompt }}"}, "must contain {{response}}"),
        (LLM | {"template": "Judge {response}"}, "instead of {response}"),
        (LLM | {"template": "{{response}} {{metadata.}}"}, "unknown placeholder {{metadata.}}"),
        (LLM | {"template": "{{response}} {{}}"}, "unknown placeholder {{}}"),
        (LLM | {"rubric": " \n"}, "rubric must not be blank"),
        (LLM | {"base_url": "ftp://host/v1"}, "base_url"),
        (LLM | {"base_url": "http://user:secret@host/v1"}, "base_url"),
        (LLM | {"base_url": "host:8000"}, "base_url"),
        (LLM | {"labels": {"meanings": ["good"]}}, "meanings must be 2 to 10"),
        (LLM | {"labels": {"meanings": ["good", "Good "]}}, "meanings must differ"),
        (LLM | {"labels": {"meanings": ["bad", " "]}}, "must not be blank"),
        (LLM | {"temperature": float("nan")}, "temperature"),
        (LLM | {"operation": {"timeout_s": 0}}, "timeout_s"),
        (LLM | {"operation": {"price": {"input_usd": -1, "output_usd": 0}}}, "input_usd"),
        (LLM | {"modle": "m"}, "modle"),
        (LLM | {"name": "two words"}, "name"),
        (
            {"kind": "decision", "name": "d", "base_url": "http://h", "model": "m", "statement": ""},
            "statement",
        ),
        (
            {
                "kind": "decision",
                "name": "d",
                "base_url": "http://h",
                "model": "m",
                "statement": "It is right.",
                "labels": {},
            },
            "labels do not apply to the question noul",
        ),
        ({"kind": "plugin", "name": "p"}, "exactly one of function and url"),
        ({"kind": "plugin", "name": "p", "function": "f", "url": "http://h"}, "exactly one"),
        ({"kind": "rule", "name": "r", "check": {"rule": "length"}}, "characters_min"),
        (
            {
                "kind": "rule",
                "name": "r",
                "check": {"rule": "length", "characters_min": 9, "characters_max": 8},
            },
            "characters_max must be at least characters_min",
        ),
        ({"kind": "rule", "name": "r", "check": {"rule": "lenght"}}, "lenght"),
    ],
)
def test_invalid_versions_do_not_construct_and_say_why(fields, message):
    with pytest.raises(msgspec.ValidationError) as refusal:
        decoded(**fields)
    assert message in str(refusal.value)


def test_a_version_hash_covers_what_may_change_a_score_and_nothing_else():
    version = decoded(**LLM)
    assert isinstance(version, LlmVersion)
    cheaper = msgspec.structs.replace(
        version, operation=Operation(price=Price(1, 2), credential="other", timeout_s=3)
    )
    assert version_hash(cheaper) == version_hash(version)
    hashes = {
        version_hash(msgspec.structs.replace(version, **change))
        for change in (
            {},
            {"model": "other"},
            {"rubric": "The answer is polite."},
            {"base_url": "http://127.0.0.1:9/v2"},
            {"template": "{{response}}"},
            {"labels": LabelSet(meanings=("bad", "good"))},
            {"temperature": 1.0},
            {"tokens_max": 100},
            {"name": "other"},
        )
    }
    assert len(hashes) == 9


def test_a_version_hash_never_changes():
    """The hash identifies stored calibrations: a change of this value orphans all of them."""
    assert version_hash(RuleVersion(name="x", check=NotEmpty())) == "bb496347f4179c776dc57867e4915d9d"


def test_versions_survive_json():
    for version in (
        decoded(**LLM),
        RuleVersion(name="x", check=NotEmpty()),
        DecisionVersion(name="d", base_url="http://h", model="m", statement="It is right."),
        PluginVersion(name="p", function="f"),
    ):
        stored = msgspec.json.decode(msgspec.json.encode(version), type=JudgeVersion)
        assert stored == version
        assert version_hash(stored) == version_hash(version)


def test_the_reference_page_has_valid_examples_and_every_reason():
    page = (Path(__file__).parents[3] / "docs/reference/judges.md").read_text()
    kinds = [
        msgspec.json.decode(block, type=JudgeVersion).__struct_config__.tag
        for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    ]
    assert kinds == list(KINDS)
    assert re.findall(r"^\| `(\w+)` \|.*\|.*\|$", page.split("## Reasons")[1], re.MULTILINE) == list(Reason)


@given(st.integers(2, 10), st.integers(0, 1))
def test_labels_map_linearly_to_scores_and_back(count, lowest):
    labels = LabelSet(meanings=tuple(f"level {number}" for number in range(count)), lowest=lowest)
    scores = [labels.score(number) for number in labels.numbers]
    assert scores[0] == 0
    assert scores[-1] == 1
    assert [labels.nearest(score) for score in scores] == list(labels.numbers)


@pytest.mark.parametrize("score", [float("nan"), -0.01, 1.01, float("inf")])
def test_a_score_outside_of_its_range_does_not_construct(score):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Judged(score=score)


@given(st.text())
def test_a_placeholder_inside_a_judged_text_stays_as_it_is(text):
    template = "{{rubric}}|{{ response }}"
    assert placeholders(template) == ("rubric", "response")
    assert filled(template, {"rubric": "r", "response": text}) == f"r|{text}"
    assert filled(template, {"rubric": "r", "response": "{{rubric}}"}) == "r|{{rubric}}"
