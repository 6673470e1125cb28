"""Quality over HTTP on a real PostgreSQL: totals equal those of rows, and refusals are in words."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import httpx2
import msgspec
import numpy as np
import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from app.access.model import Scope
from app.core.clock import SystemClock
from app.dashboard.pages import page
from app.experiments.model import Definition, Experiment, Variant
from app.experiments.service import ExperimentService
from app.experiments.store import ExperimentStore
from app.judging.tables import judge_versions, judgements
from app.ledger.tables import assignments
from app.quality.model import QualityReport
from app.quality.routes import ROUTES
from app.quality.service import QualityService
from app.quality.store import QualityStore
from app.reviews.tables import review_items, review_settings, reviews
from stats.prediction_powered import JudgedTotals, prediction_powered_mean
from tests.support.api import KEYS, api, bearer, keyring_of_scopes

AT = datetime(2026, 12, 1, 12, tzinfo=UTC)
VERSION = "a" * 64
NAN = float("nan")


class Drawn(NamedTuple):
    """Responses of one experiment as arrays of shape (n,); NaN where there is no score or label."""

    variant: np.ndarray
    unit: np.ndarray
    propensity: np.ndarray
    judging: np.ndarray
    judge: np.ndarray
    inclusion: np.ndarray
    label: np.ndarray  # 1, 2 or 3


def drawn(n: int, seed: int, *, shift: float = 0.0) -> Drawn:
    """Draw responses of two variants, three per unit; the judge is generous by `shift`."""
    rng = np.random.default_rng(20260101 + seed)
    variant = rng.integers(0, 2, n)
    truth = rng.choice([1, 2, 3], n, p=[0.2, 0.3, 0.5])
    judging, inclusion = rng.choice([0.5, 1.0], n), rng.choice([0.1, 0.4], n)
    score = np.clip((truth - 1) / 2 + shift + 0.15 * rng.normal(size=n), 0, 1)
    return Drawn(
        variant=variant,
        unit=np.arange(n) // 3,
        propensity=np.where(variant == 0, 0.7, 0.3),
        judging=judging,
        judge=np.where(rng.random(n) < judging, score, NAN),
        inclusion=inclusion,
        label=np.where(rng.random(n) < inclusion, truth, NAN),
    )


def expected(rows: Drawn, variant: int) -> JudgedTotals:
    """Return the totals of a variant from its rows: weights times those of the allocation."""
    chosen = rows.variant == variant
    propensity, judge = rows.propensity[chosen], rows.judge[chosen]
    # Equal propensities within a variant cancel out of all means.
    assert len(set(propensity)) == 1
    return JudgedTotals.from_observations(
        judge,
        (rows.label[chosen] - 1) / 2,
        rows.inclusion[chosen],
        judging=rows.judging[chosen],
        units=rows.unit[chosen],
    )


class Stored:
    """Writes responses of an experiment as the rooms do that own the tables."""

    def __init__(self, engine: AsyncEngine, experiment: Experiment) -> None:
        self.engine = engine
        self.experiment = experiment

    async def version(self, name: str = "helpful", hash_: str = VERSION, trust: str = "shadow") -> None:
        row = {"hash": hash_, "name": name, "definition": {}, "trust": trust}
        await self.write(judge_versions, [row | {"trust_since": AT, "created_at": AT}])

    async def responses(self, rows: Drawn, **changes: Any) -> None:
        """Write assignments, judgements and labels; `changes` replace columns of all of them."""
        settings = {"revision": 1, "rate": 0.1, "rubric": "", "reviewers": 2, "lease_s": 60}
        labels = {"labels": {"1": "poor", "2": "fair", "3": "good"}, "created_at": AT}
        await self.write(review_settings, [settings | labels | {"experiment_id": self.experiment.id}])
        common = [
            {
                "experiment_id": self.experiment.id,
                "epoch": 1,
                "variant": int(rows.variant[n]),
                "unit_hash": int(rows.unit[n]),
                "response_key": UUID(int=n + 1),
                "assignment": UUID(int=10**6 + n),
            }
            for n in range(len(rows.variant))
        ]
        await self.write(
            assignments, [self.assigned(row, rows.propensity[n]) for n, row in enumerate(common)]
        )
        judged = [n for n in range(len(common)) if not np.isnan(rows.judge[n])]
        await self.write(judgements, [self.judged(common[n], rows, n) | changes for n in judged])
        labelled = [n for n in range(len(common)) if not np.isnan(rows.label[n])]
        await self.write(review_items, [self.item(common[n], rows, n) for n in labelled])
        await self.write(
            reviews,
            [
                self.review(n + 1, reviewer, int(rows.label[n]))
                for n in labelled
                for reviewer in ("key:1", "key:2")
            ],
        )

    async def write(self, table: Any, rows: list[dict[str, Any]]) -> None:
        if rows:
            async with self.engine.begin() as connection:
                await connection.execute(insert(table), rows)

    def assigned(self, row: dict[str, Any], propensity: float) -> dict[str, Any]:
        return {
            "experiment_id": row["experiment_id"],
            "unit_hash": row["unit_hash"],
            "id": row["assignment"],
            "assigned_at": AT,
            "deadline": AT + timedelta(hours=1),
            "epoch": row["epoch"],
            "policy_version": 1,
            "variant": row["variant"],
            "propensity": float(propensity),
            "exposed": True,
        }

    def judged(self, row: dict[str, Any], rows: Drawn, n: int) -> dict[str, Any]:
        return row | {
            "id": UUID(int=2 * 10**6 + n),
            "version_hash": VERSION,
            "rule_id": 1,
            "stratum": "1/0",
            "inclusion_probability": float(rows.judging[n]),
            "repetition": 0,
            "characters": 100,
            "responded_at": AT,
            "state": "judged",
            "score": float(rows.judge[n]),
            "cost_usd": 0.002,
            "at": AT,
            "priority": 0,
        }

    def item(self, row: dict[str, Any], rows: Drawn, n: int) -> dict[str, Any]:
        return row | {
            "id": n + 1,
            "queue": "sample",
            "inclusion_probability": float(rows.inclusion[n]),
            "segment": "",
            "detail": "",
            "rank": n,
            "revision": 1,
            "wanted": 2,
            "taken": 2,
            "labelled": 2,
            "state": "done",
            "created_at": AT,
            "changed_at": AT,
        }

    def review(self, item: int, reviewer: str, label: int | None, revision: int = 1) -> dict[str, Any]:
        row = {"item_id": item, "reviewer": reviewer, "revision": revision, "comment": "", "at": AT}
        return row | {"label": label, "reason": None if label else "unclear"}


@pytest.fixture
async def stored(engine: AsyncEngine) -> Stored:
    async def ignore_change(_: int) -> None: ...

    experiments = ExperimentService(ExperimentStore(engine), SystemClock(), ignore_change)
    definition = Definition(key="summary", variants=(Variant("control", control=True), Variant("short")))
    return Stored(engine, await experiments.create(definition))


@pytest.fixture
async def client(engine: AsyncEngine) -> AsyncIterator[httpx2.AsyncClient]:
    async def ignore_change(_: int) -> None: ...

    experiments = ExperimentService(ExperimentStore(engine), SystemClock(), ignore_change)
    quality = QualityService(experiments, QualityStore(engine))
    async with api(ROUTES, {"quality": quality}, keyring_of_scopes()) as client:
        client.headers.update(bearer(KEYS[Scope.READ]))
        yield client


async def report(client: httpx2.AsyncClient, **params: Any) -> dict[str, Any]:
    answer = await client.get("/experiments/summary/quality", params=params)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


async def test_the_database_adds_up_what_the_rows_say(stored, client):
    rows = drawn(1_200, 1, shift=0.1)
    await stored.version()
    await stored.responses(rows)
    answer = await report(client)
    for position, row in enumerate(answer["variants"]):
        total = expected(rows, position)
        estimate = prediction_powered_mean(total)
        assert (row["labels"], row["judgements"]) == (total.n_labelled, total.n_judged)
        assert row["quality"] == pytest.approx(estimate.mean.value, rel=1e-9)
        assert row["judge_mean"] == pytest.approx(estimate.judge_mean, rel=1e-9)
        assert row["removed_bias"] == pytest.approx(estimate.removed_bias, rel=1e-6)
        bounds = estimate.mean.interval(alpha=0.05)
        assert row["interval_one_look"] == pytest.approx([bounds.lower, bounds.upper], rel=1e-9)
        assert row["interval"][0] < row["interval_one_look"][0]
        assert row["removed_bias"] > 0.02
        assert row["label_gain"] > 1.5
    contrast = answer["variants"][1]["contrast"]
    qualities = [row["quality"] for row in answer["variants"]]
    assert contrast["effect"] == pytest.approx(qualities[1] - qualities[0])
    assert contrast["interval"][0] <= 0 <= contrast["interval"][1]
    assert answer["variants"][0]["contrast"] is None
    assert answer["judge"] == {
        "name": "helpful",
        "version": VERSION,
        "trust": "shadow",
        "judgements": int((~np.isnan(rows.judge)).sum()),
        "cost_usd": pytest.approx(0.002),
    }


async def test_only_what_belongs_to_the_estimate_enters_it(stored, client):
    """Repetitions, failures, other queues, skips, older labels and unexposed assignments do not."""
    rows = drawn(600, 2)
    await stored.version()
    await stored.responses(rows)
    before = await report(client)
    base = {
        "experiment_id": stored.experiment.id,
        "epoch": 1,
        "variant": 0,
        "unit_hash": 1,
        "response_key": UUID(int=1),
        "assignment": UUID(int=10**6),
    }
    repeated = stored.judged(base, rows, 0) | {"score": 0.0, "inclusion_probability": 1.0}
    new = base | {"response_key": UUID(int=5 * 10**6), "assignment": UUID(int=6 * 10**6)}
    await stored.write(
        judgements,
        [
            repeated | {"id": UUID(int=1), "repetition": 1},
            repeated | {"id": UUID(int=2), "state": "unscored", "score": None, "repetition": 2},
            repeated | new | {"id": UUID(int=3)},  # no stored exposure
        ],
    )
    disagreement = stored.item(base, rows, 0) | {"id": 10**5, "queue": "disagreement"}
    skipped = stored.item(base, rows, 0) | {"id": 10**5 + 1, "response_key": UUID(int=7 * 10**6)}
    items = [
        disagreement | {"inclusion_probability": None, "response_key": UUID(int=8 * 10**6)},
        skipped | {"inclusion_probability": 0.1},
    ]
    await stored.write(review_items, items)
    await stored.write(
        reviews,
        [stored.review(10**5, "key:1", 1), stored.review(10**5 + 1, "key:1", None)],
    )
    assert (await report(client))["variants"] == before["variants"]


async def test_the_newest_labels_of_all_reviewers_are_averaged(stored, client):
    rows = drawn(600, 3)
    await stored.version()
    await stored.responses(rows)
    item = int(np.flatnonzero(~np.isnan(rows.label))[0])
    other = 3 if rows.label[item] == 1 else 1
    await stored.write(reviews, [stored.review(item + 1, "key:1", other, revision=2)])
    label = rows.label.copy()
    label[item] = (label[item] + other) / 2
    answer = await report(client)
    variant = int(rows.variant[item])
    total = prediction_powered_mean(expected(rows._replace(label=label), variant))
    assert answer["variants"][variant]["quality"] == pytest.approx(total.mean.value, rel=1e-9)


async def test_a_shift_of_the_allocation_is_no_effect(stored, client):
    """Quality falls while the traffic moves to the other variant: propensities undo it."""
    rng = np.random.default_rng(20260101 + 4)
    n = 6_000
    late = np.arange(n) >= n // 2
    share = np.where(late, 0.9, 0.1)
    variant = (rng.random(n) < share).astype(int)
    good = rng.random(n) < np.where(late, 0.3, 0.9)
    rows = Drawn(
        variant=variant,
        unit=np.arange(n),
        propensity=np.where(variant == 1, share, 1 - share),
        judging=np.ones(n),
        judge=np.where(rng.random(n) < 0.9, good, ~good) * 1.0,
        inclusion=np.full(n, 0.2),
        label=np.where(rng.random(n) < 0.2, np.where(good, 3, 1), NAN),
    )
    await stored.version()
    await stored.responses(rows)
    contrast = (await report(client))["variants"][1]["contrast"]
    assert contrast["interval"][0] <= 0 <= contrast["interval"][1]
    flat = [
        prediction_powered_mean(expected(rows._replace(propensity=np.ones(n)), arm)).mean for arm in (0, 1)
    ]
    assert (flat[1] - flat[0]).interval(alpha=1e-6).upper < 0  # planted bug


async def test_without_labels_every_variant_says_so(stored, client):
    rows = drawn(60, 5)
    await stored.version()
    await stored.responses(rows._replace(label=np.full(60, NAN)))
    answer = await report(client)
    for row in answer["variants"]:
        assert row["quality"] is None
        assert "no response has a human label" in row["reason"]
        assert row["judge_mean"] is not None
    assert "this variant needs at least 3 labels" in answer["variants"][1]["contrast"]["reason"]


async def test_labels_of_one_variant_alone_give_no_effect(stored, client):
    rows = drawn(600, 6)
    await stored.version()
    await stored.responses(rows._replace(label=np.where(rows.variant == 1, rows.label, NAN)))
    control, short = (await report(client))["variants"]
    assert control["quality"] is None
    assert short["quality"] is not None
    assert short["contrast"]["effect"] is None
    assert "the control needs at least 3 labels" in short["contrast"]["reason"]


async def test_without_a_judge_the_number_is_that_of_the_labels(stored, client):
    rows = drawn(600, 7)
    await stored.responses(rows._replace(judge=np.full(600, NAN)))
    answer = await report(client)
    assert (answer["judge"], answer["judges"]) == (None, [])
    for row in answer["variants"]:
        assert row["quality"] == row["labels_alone"]
        assert "no judge has scored" in row["reason"]


async def test_an_experiment_without_anything_is_no_error(stored, client):
    answer = await report(client)
    assert [row["labels"] for row in answer["variants"]] == [0, 0]
    missing = await client.get("/experiments/unknown/quality")
    assert missing.status_code == 404


async def test_the_most_trusted_judge_is_chosen_and_another_can_be_named(stored, client):
    rows = drawn(300, 8)
    await stored.version()
    await stored.version("strict", "b" * 64, trust="promoted")
    await stored.responses(rows)
    other = {"version_hash": "b" * 64, "id": UUID(int=9 * 10**6), "score": 0.5}
    row = {"experiment_id": stored.experiment.id, "epoch": 1, "variant": 0, "unit_hash": 0}
    first = row | {"response_key": UUID(int=1), "assignment": UUID(int=10**6)}
    await stored.write(judgements, [stored.judged(first, rows, 0) | other])
    assert (await report(client))["judge"]["name"] == "strict"
    assert (await report(client, judge="helpful"))["judge"]["version"] == VERSION
    assert (await report(client, version="aaaa"))["judge"]["name"] == "helpful"
    refused = await client.get("/experiments/summary/quality", params={"judge": "helpfull"})
    assert refused.status_code == 400
    assert "did you mean helpful?" in refused.text


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"level": 1.0}, "level"),
        ({"level": "nan"}, "level"),
        ({"level": 1e-300}, "level"),
        ({"label_cost_usd": "inf"}, "label_cost_usd"),
        ({"labels": 0}, "labels"),
        ({"label_cost_usd": -1}, "label_cost_usd"),
        ({"judge": "x"}, "judge"),
    ],
)
async def test_bad_questions_name_the_field(stored, client, params, field):
    refused = await client.get("/experiments/summary/quality", params=params)
    assert refused.status_code == 400
    assert field in refused.text


async def test_the_plan_names_prices(stored, client):
    await stored.version()
    await stored.responses(drawn(900, 9))
    answer = await report(client, labels=25, label_cost_usd=0.5)
    plan = answer["variants"][0]["plan"]
    assert plan["labels"] == 25
    assert plan["cost_usd"] == 12.5
    assert plan["half_width_then"] < plan["half_width"]
    assert "25 more labels shrink the interval from ±" in plan["text"]
    assert "($12.50)" in plan["text"]


async def test_the_page_of_an_experiment_shows_its_quality(stored, client):
    await stored.version()
    await stored.responses(drawn(900, 10))
    quality = msgspec.json.decode(
        (await client.get("/experiments/summary/quality")).content, type=QualityReport
    )
    text = rendered(quality)
    assert "the judge helpful (shadow)" in text
    assert f"{quality.variants[0].quality:.3f}" in text
    assert "more labels shrink the interval" in text
    assert not rendered(msgspec.structs.replace(quality, judges=[], variants=[])).strip()


def rendered(quality: QualityReport) -> str:
    """Return the section of the page."""
    return str(page("quality.html", quality=quality).content)


@pytest.mark.parametrize("level", [0.5, 0.9999])
async def test_the_extreme_levels_give_intervals(stored, client, level):
    await stored.version()
    await stored.responses(drawn(600, 11))
    for row in (await report(client, level=level))["variants"]:
        assert row["interval"][0] < row["quality"] < row["interval"][1]
