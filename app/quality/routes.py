"""Quality over HTTP. It needs the dependency `quality: QualityService`."""

from typing import Final

from litestar import get

from app.access.guards import requires
from app.access.model import Scope
from app.quality import limits
from app.quality.model import QualityReport, Question
from app.quality.service import QualityService


@get("/experiments/{key:str}/quality", guards=[requires(Scope.READ)])
async def experiment_quality(
    key: str,
    quality: QualityService,
    *,
    judge: str | None = None,
    version: str | None = None,
    level: float = 0.95,
    labels: int = limits.PLANNED_LABELS,
    label_cost_usd: float | None = None,
) -> QualityReport:
    """Read the quality of each variant: the mean human score from judges on many, people on few.

    The judge is the most trusted one, unless `judge` and `version` name another. Each variant has
    an interval that is valid at every look, the judge's mean at face value, the bias that was
    removed, and what `labels` more labels would buy. Where a number is missing, `reason` says why.
    """
    question = Question(
        judge=judge, version=version, level=level, labels=labels, label_cost_usd=label_cost_usd
    )
    return await quality.report(key, question)


ROUTES: Final = [experiment_quality]
