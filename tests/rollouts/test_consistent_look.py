"""A look reads totals of one moment, whatever the ledger commits meanwhile, and checks the covariates."""

import msgspec
import psycopg
import pytest
from sqlalchemy import event, text

from app.analysis.balance import balance_findings
from app.analysis.observed import Cell
from app.analysis.store import AnalysisStore
from app.core.postgres import psycopg_dsn
from app.experiments.plan import AnalysisPlan
from app.rollouts.decide import decide
from app.rollouts.model import Hold, RollBack
from app.rollouts.service import compared_of
from app.rollouts.verdicts import read
from stats.totals import JointTotals
from tests.rollouts.stored import come, watermark
from tests.rollouts.support import DAY, ERRORS, START, observed_of, plan_of, running
from tests.rollouts.test_service import request

anyio = pytest.mark.anyio

COMMIT = """
UPDATE draws SET assignments = assignments + 1, probability_sum = probability_sum + 4294967296;
UPDATE totals SET assignments = assignments + 1;
"""


@anyio
async def test_a_commit_between_two_statements_of_a_look_is_seen_whole_or_not_at_all(
    rollouts, experiment, engine, clock, database_url
):
    """Before every statement another session commits to two tables; both say the same number of units."""
    begun = await rollouts.begin(request(), "key 1")
    await come(engine, experiment, 0, units=200, errors=2, latency=1.0)
    await watermark(engine, clock.now())
    async with engine.begin() as connection:
        for table, columns, zeros in (
            ("draws", "assignments, probability_sum", "0, 0"),
            ("totals", "assignments", "0"),
        ):
            await connection.execute(
                text(
                    f"INSERT INTO {table} (experiment_id, epoch, variant, {columns}) "
                    f"SELECT {experiment.id}, {begun.epoch}, variant, {zeros} "
                    "FROM generate_series(0, 1) AS variant"
                )
            )
    statements = []
    with psycopg.connect(psycopg_dsn(database_url), autocommit=True) as ledger:

        def commit(*arguments):
            statements.append(arguments[2])
            with ledger.transaction():
                ledger.execute(COMMIT)

        event.listen(engine.sync_engine, "before_cursor_execute", commit)
        try:
            stored = await AnalysisStore(engine).observed(experiment)
            await rollouts.look(begun.id)
        finally:
            event.remove(engine.sync_engine, "before_cursor_execute", commit)
    assert stored.by_epoch[0].totals.assignments > 0
    assert [drawn.assignments for drawn in stored.draws] == [
        part.totals.assignments for part in stored.by_epoch
    ]
    assert len(statements) <= 1 + 6


def with_covariate(shift, errors):
    """Totals of both variants with a covariate, whose mean the canary moves by `shift` deviations."""
    n, cells = 20_000, []
    for variant, moved, failed in (("old", 0.0, 200), ("new", shift, errors)):
        error = JointTotals(n, (failed / n, moved), (failed * (1 - failed / n), 0.0, float(n)))
        cells.append(
            Cell(1, variant, n, {"error_rate": error}, covariates=JointTotals(n, (moved,), (float(n),)))
        )
    return observed_of(*cells, covariates=("age",))


@pytest.mark.parametrize(("errors", "decision"), [(200, Hold), (1_000, RollBack)])
def test_a_covariate_that_the_canary_moves_holds_the_decision_and_never_rolls_back(errors, decision):
    """Harm is rolled back all the same; without the move the healthy canary is not held for integrity."""
    plan = plan_of(ERRORS)
    for shift, broken in ((0.2, True), (0.0, False)):
        observed = with_covariate(shift, errors)
        findings = balance_findings(AnalysisPlan(), observed)
        reading = read(plan, running(), observed, findings=findings, now=START + DAY, as_of=START + DAY)
        decided = decide(plan, running(), reading, START + DAY)
        if broken or decision is RollBack:
            assert isinstance(decided, decision)
        assert (getattr(decided, "reason", "") == "integrity") == (broken and decision is Hold)


@anyio
async def test_a_rollout_compares_its_own_variants_only(rollouts, experiment):
    begun = await rollouts.begin(request(), "key 1")
    cells = [Cell(epoch, name, 9, {}) for epoch in (1, 2) for name in ("old", "new", "other")]
    observed = observed_of(*cells, variants=("other", "old", "new"), adaptive=True)
    compared = compared_of(observed, msgspec.structs.replace(begun, epoch=2))
    assert (compared.variants, compared.adaptive) == (("old", "new"), False)
    assert {(cell.epoch, cell.variant) for cell in compared.cells} == {(2, "old"), (2, "new")}
