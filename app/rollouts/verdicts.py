"""From totals to verdicts: harm, safe, or not enough data, per guardrail and canary. Pure."""

from collections.abc import Sequence
from datetime import datetime

from app.analysis.integrity import Finding
from app.analysis.observed import Observed
from app.rollouts.model import Paused, Plan, Reading, Running


def read(
    plan: Plan,
    state: Running | Paused,
    observed: Observed,
    *,
    findings: Sequence[Finding],
    now: datetime,
    as_of: datetime | None,
) -> Reading:
    """What the data of the rollout say now, on every guardrail, limit and the primary metric.

    `observed` holds the epochs since the rollout began and no others: each epoch is a period of constant
    shares, and evidence of harm may start at any of them. `findings` are those of integrity (of
    `analysis.integrity.findings`, and of A/A checks). `as_of`: everything acknowledged before is in the
    totals; None if that is not known, which is missing data.
    """
    raise NotImplementedError(plan, state, observed, findings, now, as_of)
