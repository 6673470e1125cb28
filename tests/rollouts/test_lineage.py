"""Which version was the standard when, and by whose decision."""

from datetime import timedelta

import pytest

from app.core.errors import NotFound
from app.experiments.model import Definition, Draft, Experiment, Running, Stopped, Variant
from app.experiments.policies import FixedPolicy
from app.rollouts.life import Taken
from app.rollouts.lineage import Completion, lineage
from app.rollouts.model import Complete
from app.rollouts.service import RolloutRequest
from tests.rollouts.support import START

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)
DEFINITION = Definition(
    key="summary",
    variants=(Variant("old", control=True), Variant("new"), Variant("newer")),
    policy=FixedPolicy({"old": 1.0, "new": 0.0, "newer": 0.0}),
)


def stored(state, **changes) -> Experiment:
    fields = {"id": 1, "definition": DEFINITION, "salt": b"", "epoch": 1, "revision": 1}
    return Experiment(**fields, state=state, created_at=START, updated_at=START, **changes)


def completion(rollout: int, canary: str, at) -> Completion:
    taken = Taken(number=2, decision=Complete(), by="key 1", reason="shown to be safe", at=at)
    return Completion(rollout, (canary,), taken)


def test_a_draft_has_versions_and_no_standard():
    result = lineage(stored(Draft()), [])
    assert [(version.key, version.control, version.standard) for version in result.versions] == [
        ("old", True, False),
        ("new", False, False),
        ("newer", False, False),
    ]
    assert result.promotions == ()


def test_each_completed_rollout_takes_the_place_of_the_standard_before():
    done = [completion(1, "new", START + HOUR), completion(2, "newer", START + 2 * HOUR)]
    result = lineage(stored(Running(START), held={"new": 0.0, "newer": 1.0}), done)
    assert [(version.event, version.before, version.versions) for version in result.promotions] == [
        ("started", (), ("old",)),
        ("completed", ("old",), ("new",)),
        ("completed", ("new",), ("newer",)),
    ]
    last = result.promotions[-1]
    assert (last.by, last.reason, last.rollout, last.decision) == ("key 1", "shown to be safe", 2, 2)
    assert [(version.standard, version.held) for version in result.versions] == [
        (False, None),
        (False, 0.0),
        (True, 1.0),
    ]


@pytest.mark.parametrize(
    ("winner", "standard", "events"),
    [("new", "new", ["started", "completed"]), (None, "old", ["started", "completed", "stopped"])],
)
def test_the_end_of_an_experiment_is_a_promotion_where_it_changes_the_standard(winner, standard, events):
    stopped = Stopped(START, START + 2 * HOUR, winner=winner)
    result = lineage(stored(stopped), [completion(1, "new", START + HOUR)])
    assert [version.event for version in result.promotions] == events
    assert [version.key for version in result.versions if version.standard] == [standard]


async def test_the_lineage_names_the_decision_with_the_evidence(rollouts, experiment):
    request = RolloutRequest(experiment="summary", canaries=("new",), guardrails=("error_rate",))
    rollout = await rollouts.begin(request, "key 1")
    assert [version.event for version in (await rollouts.lineage("summary")).promotions] == ["started"]
    for _ in request.stages[1:]:
        await rollouts.act(rollout.id, "advance", by="key 2", reason="it is fine")
    last = (await rollouts.lineage("summary")).promotions[-1]
    assert (last.event, last.versions, last.by, last.reason) == ("completed", ("new",), "key 2", "it is fine")
    taken, _, differs = await rollouts.explain(last.rollout, last.decision)
    assert isinstance(taken.decision, Complete)
    assert differs == ()
    with pytest.raises(NotFound):
        await rollouts.lineage("nobody")
