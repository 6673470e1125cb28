"""Reviews over HTTP, on the routes of the application."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from app.access.model import Scope
from app.reviews.import_service import ImportService
from app.reviews.reading_service import ReviewReader
from app.reviews.routes import ROUTES
from tests.reviews.conftest import KEY, Reviewed
from tests.support.api import KEYS, MASTER_KEY, api, bearer, keyring_of_scopes

pytestmark = pytest.mark.anyio
ADMIN, READ, REVIEW = (bearer(KEYS[scope]) for scope in (Scope.ADMIN, Scope.READ, Scope.REVIEW))
OTHER = bearer(MASTER_KEY)
CSV = {"Content-Type": "text/csv"}


@pytest.fixture
async def http(reviewed: Reviewed) -> AsyncIterator[httpx2.AsyncClient]:
    experiments = reviewed.service._experiments
    dependencies = {
        "review_service": reviewed.service,
        "review_reader": ReviewReader(reviewed.store, reviewed.reading, reviewed.responses, experiments),
        "review_import": ImportService(reviewed.claims, reviewed.responses, experiments, reviewed.clock),
    }
    async with api(ROUTES, dependencies, keyring_of_scopes()) as client:
        yield client


async def set_up(http: httpx2.AsyncClient, reviewed: Reviewed, n: int = 1, **settings: Any) -> None:
    answer = await http.put(f"/experiments/{KEY}/review", json={"rate": 1.0} | settings, headers=ADMIN)
    assert answer.status_code == 200, answer.text
    await reviewed.respond(n)
    await reviewed.draw()


async def claim(http: httpx2.AsyncClient, headers: dict[str, str]) -> dict[str, Any]:
    answer = await http.post("/reviews/claim", json={"experiment": KEY}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["item"]


async def test_settings_have_defaults_and_each_change_is_a_revision(http, reviewed):
    path = f"/experiments/{KEY}/review"
    before = (await http.get(path, headers=READ)).json()
    assert before["revision"] == 0
    assert (before["rate"], before["reviewers"]) == (0.01, 1)
    assert before["labels"] == {"1": "poor", "2": "acceptable", "3": "good"}
    for revision, rubric in ((1, "first"), (1, "first"), (2, "second")):
        stored = (await http.put(path, json={"rubric": rubric}, headers=ADMIN)).json()
        assert (stored["revision"], stored["rubric"]) == (revision, rubric)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"rate": 1.5}, "rate"),
        ({"rate": -0.1}, "rate"),
        ({"reviewers": 0}, "reviewers"),
        ({"lease_s": 1}, "lease_s"),
        ({"labels": {"1": "only"}}, "labels"),
        ({"labels": {"1": "a", "12": "b"}}, "labels"),
        ({"labels": {"1": "", "2": "b"}}, "labels"),
        ({"rubrik": "x"}, "rubrik"),
        ({"rubric": "a\0b"}, "rubric"),
    ],
)
async def test_wrong_settings_name_the_field(http, body, field):
    answer = await http.put(f"/experiments/{KEY}/review", json=body, headers=ADMIN)
    assert answer.status_code == 400, answer.text
    assert field in answer.text


async def test_each_call_needs_its_scope(http, reviewed):
    assert (await http.put(f"/experiments/{KEY}/review", json={}, headers=READ)).status_code == 403
    assert (await http.get(f"/experiments/{KEY}/reviews", headers=REVIEW)).status_code == 403
    assert (await http.post("/reviews/claim", headers=READ)).status_code == 403
    assert (await http.post("/reviews/claim")).status_code == 401
    assert (await http.post("/reviews/claim", headers=ADMIN)).status_code == 200


async def test_unknown_experiments_and_items_are_404(http, reviewed):
    assert (await http.get("/experiments/nope/review", headers=READ)).status_code == 404
    assert (await http.post("/reviews/claim", json={"experiment": "nope"}, headers=REVIEW)).status_code == 404
    body = {"lease": "00000000-0000-0000-0000-000000000000", "label": 1}
    for item in (1, 2**63, 10**30):
        assert (await http.post(f"/reviews/{item}/submit", json=body, headers=REVIEW)).status_code == 404


async def test_a_review_from_claim_to_correction(http, reviewed):
    await set_up(http, reviewed, rubric="Is it right?")
    item = await claim(http, REVIEW)
    body = {"lease": item["lease"], "label": 3, "seconds": 4.5}
    first = (await http.post(f"/reviews/{item['item']}/submit", json=body, headers=REVIEW)).json()
    again = (await http.post(f"/reviews/{item['item']}/submit", json=body, headers=REVIEW)).json()
    assert first == again
    assert (first["label"], first["seconds"], first["revision"]) == (3, 4.5, 1)
    answer = await http.post(f"/reviews/{item['item']}/submit", json=body | {"label": 1}, headers=REVIEW)
    assert answer.status_code == 409
    path = f"/reviews/{item['item']}/correct"
    corrected = (await http.post(path, json={"label": 1}, headers=REVIEW)).json()
    assert (corrected["label"], corrected["revision"]) == (1, 2)
    assert (await http.post(path, json={}, headers=REVIEW)).status_code == 400
    assert (await http.post(path, json={"label": 7}, headers=REVIEW)).status_code == 400
    shown = (await http.get(f"/reviews/{item['item']}", headers=REVIEW)).json()
    assert shown["answer"]["label"] == 1
    assert (await http.get(f"/reviews/{item['item']}", headers=OTHER)).status_code == 404
    assert await claim(http, REVIEW) is None


async def test_the_overview_shows_progress_sample_reviewers_and_agreement(http, reviewed):
    await set_up(http, reviewed, 6, reviewers=2)
    empty = (await http.get(f"/experiments/{KEY}/reviews", headers=READ)).json()
    assert empty["agreement"]["coefficients"][0]["value"] is None
    for headers, labels in ((REVIEW, [1, 2, 3, 3, 2, 1]), (OTHER, [1, 2, 3, 3, 2, 2])):
        while (item := await claim(http, headers)) is not None:
            body = {"lease": item["lease"], "label": labels[item["item"] - 1], "seconds": 2}
            await http.post(f"/reviews/{item['item']}/submit", json=body, headers=headers)
    overview = (await http.get(f"/experiments/{KEY}/reviews", headers=READ)).json()
    (queue,) = overview["queues"]
    assert (queue["items"], queue["done"], queue["labels"], queue["missing"]) == (6, 6, 12, 0)
    assert (overview["sampling"]["responses"], overview["sampling"]["share"]) == (6, 1.0)
    assert [(row["labels"], row["seconds_median"]) for row in overview["reviewers"]] == [(6, 2.0), (6, 2.0)]
    alpha, kappa = overview["agreement"]["coefficients"]
    assert alpha["items"] == kappa["items"] == 6
    assert 0.5 < alpha["value"] < 1
    assert alpha["interval"][0] < alpha["value"] < alpha["interval"][1]
    assert overview["agreement"]["clusters"] == 6


async def test_the_export_of_answers_is_complete_and_its_import_changes_nothing(http, reviewed):
    await set_up(http, reviewed, 2)
    for label in (1, 2):
        item = await claim(http, REVIEW)
        body = {"lease": item["lease"], "label": label, "comment": "=1+1"}
        await http.post(f"/reviews/{item['item']}/submit", json=body, headers=REVIEW)
    await http.post(f"/reviews/{item['item']}/correct", json={"label": 3, "comment": 'ü,\n"'}, headers=REVIEW)
    path = f"/experiments/{KEY}/reviews"
    exported = await http.get(f"{path}/export", headers=READ)
    assert exported.headers["content-type"].startswith("text/csv")
    assert "'=1+1" in exported.text
    revisions = await http.get(f"{path}/export?format=jsonl&revisions=true", headers=READ)
    assert len(revisions.text.splitlines()) == 3
    lines = await http.get(f"{path}/export?format=jsonl", headers=READ)
    for body, media in ((exported, "text/csv"), (lines, "application/x-ndjson")):
        answer = await http.post(
            f"{path}/import", content=body.content, headers=ADMIN | {"Content-Type": media}
        )
        receipt = answer.json()
        assert (receipt["unchanged"], receipt["rejected"], receipt["imported"]) == (2, 0, 0), answer.text


async def test_labels_made_elsewhere_are_imported_once(http, reviewed):
    await set_up(http, reviewed, 2)
    path = f"/experiments/{KEY}/reviews"
    template = await http.get(f"{path}/export?content=items&format=jsonl", headers=READ)
    ids = [line["response_id"] for line in map(json.loads, template.text.splitlines())]
    assert "variant" not in template.text
    await http.put(f"/experiments/{KEY}/review", json={"rate": 0.0}, headers=ADMIN)
    await reviewed.respond(1)
    stored, _ = await reviewed.responses.after(0, 100)
    outside = next(row.response_id for row in stored if row.response_id not in ids)
    file = f"response_id,label,reviewer\n{ids[0]},3,ann\n{outside},1,ann\n{outside},2,bob\n"
    for expected in ((3, 0, 0), (0, 0, 3)):
        answer = await http.post(f"{path}/import", content=file, headers=ADMIN | CSV)
        receipt = answer.json()
        assert (receipt["imported"], receipt["corrected"], receipt["unchanged"]) == expected, answer.text
    changed = f"response_id,label,reviewer\n{ids[0]},1,ann\n"
    answer = await http.post(f"{path}/import", content=changed, headers=ADMIN | CSV)
    assert answer.json()["corrected"] == 1
    labels = await reviewed.store.labels(reviewed.experiment.id)
    assert sorted((row.queue, row.label, row.n_reviewers) for row in labels) == [
        ("imported", 1.5, 2),
        ("sample", 1.0, 1),
    ]
    item = await claim(http, REVIEW)
    assert item is not None
    await http.post(f"/reviews/{item['item']}/release", json={"lease": item["lease"]}, headers=REVIEW)
    assert (await claim(http, OTHER))["item"] == item["item"]


async def test_wrong_lines_are_named_and_the_right_ones_are_stored(http, reviewed):
    await set_up(http, reviewed, 2)
    stored, _ = await reviewed.responses.after(0, 100)
    first, second = (row.response_id for row in stored)
    file = (
        "response_id,label,reviewer,seconds\n"
        f"{first},9,ann,\n"  # 2: not in the label set
        "unknown,1,ann,\n"  # 3
        f"{first},many,ann,\n"  # 4
        f"{first},,ann,\n"  # 5
        f"{first},1,,\n"  # 6
        f"{first},2,ann,3\n"  # 7: right
        f"{first},3,ann,\n"  # 8: the same reviewer again
        f"{first},3,bob,\n"  # 9: the item wants one reviewer
        f"{second},2,key:77,\n"  # 10: only the holder of the key
        f"{second},2,ann,-3\n"  # 11
        f"{second},2,ann,3,4\n"  # 12: too many fields
    )
    answer = await http.post(f"/experiments/{KEY}/reviews/import", content=file, headers=ADMIN | CSV)
    receipt = answer.json()
    assert (receipt["imported"], answer.status_code) == (1, 200), answer.text
    named = {error["line"]: error["field"] for error in receipt["errors"]}
    assert named == {
        2: "label",
        3: "response_id",
        4: "label",
        5: "label",
        6: "reviewer",
        8: "reviewer",
        9: "reviewer",
        10: "reviewer",
        11: "seconds",
        12: "",
    }, receipt


@pytest.mark.parametrize(
    ("content", "media", "status"),
    [
        (b"response_id,label\nx,1\n", "text/csv", 400),
        (b"\xff\xfe", "text/csv", 400),
        (b"response_id,label,reviewer\nx,1,ann\n", "text/plain", 415),
        (b"{broken\n", "application/x-ndjson", 200),
        (b"", "application/x-ndjson", 200),
        (b"", "text/csv", 400),
        (b"[" * 100_000, "application/x-ndjson", 200),
    ],
)
async def test_a_file_that_cannot_be_read_is_refused(http, reviewed, content, media, status):
    await set_up(http, reviewed)
    path = f"/experiments/{KEY}/reviews/import"
    answer = await http.post(path, content=content, headers=ADMIN | {"Content-Type": media})
    assert answer.status_code == status, answer.text
