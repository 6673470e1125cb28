"""Use cases of quality."""

from collections.abc import Sequence

from app.core.choices import refusal
from app.core.errors import InvalidInput
from app.experiments.service import ExperimentService
from app.quality import limits
from app.quality.model import Judge, QualityReport, Question
from app.quality.report import report
from app.quality.store import QualityStore


class QualityService:
    """Reads totals, and estimates quality from them."""

    def __init__(self, experiments: ExperimentService, store: QualityStore) -> None:
        self._experiments = experiments
        self._store = store

    async def report(self, key: str, question: Question) -> QualityReport:
        """Return the quality of each variant. Raises NotFound or InvalidInput."""
        _check(question)
        experiment = await self._experiments.get(key)
        judges = await self._store.judges(experiment)
        judge = _chosen(judges, question)
        totals = await self._store.totals(experiment, judge)
        return report(experiment.definition, totals, judges, judge, question)


def _check(question: Question) -> None:
    if not limits.QUALITY_LEVEL_MIN <= question.level <= limits.QUALITY_LEVEL_MAX:
        raise InvalidInput(
            f"must be from {limits.QUALITY_LEVEL_MIN:g} to {limits.QUALITY_LEVEL_MAX:g}; "
            f"got {question.level:g}",
            field="level",
        )
    if not 1 <= question.labels <= limits.PLANNED_LABELS_MAX:
        raise InvalidInput(
            f"must be from 1 to {limits.PLANNED_LABELS_MAX:,}; got {question.labels}", field="labels"
        )
    cost = question.label_cost_usd
    if cost is not None and not 0 <= cost <= limits.LABEL_COST_USD_MAX:
        raise InvalidInput(
            f"must be from 0 to {limits.LABEL_COST_USD_MAX:,.0f}; got {cost:g}", field="label_cost_usd"
        )


def _chosen(judges: Sequence[Judge], question: Question) -> Judge | None:
    """Return the judge that was asked for, or the most trusted one; None without any."""
    named = judges
    if question.judge is not None:
        named = [judge for judge in judges if judge.name == question.judge]
        if not named:
            raise InvalidInput(_unknown(question.judge, [judge.name for judge in judges]), field="judge")
    if question.version is not None:
        named = [judge for judge in named if judge.version.startswith(question.version)]
        if not named:
            known = [judge.version[:12] for judge in judges]
            raise InvalidInput(_unknown(question.version, known), field="version")
    return named[0] if named else None


def _unknown(value: str, known: Sequence[str]) -> str:
    if not known:
        return f"no judge has scored a response of this experiment; got {value!r}"
    return refusal(repr(value), list(dict.fromkeys(known)))
