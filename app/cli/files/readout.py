"""The readout of an experiment from a file, for the options of `wald analyze`."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import rich_click as click

from app.analysis.readout.analyze import analyze
from app.analysis.readout.record import Readout
from app.cli.analyze import Cap, Guardrail
from app.cli.files import measurements
from app.cli.files.records import in_words, suggestion
from app.experiments.metrics import Margin, Mean, Metric, Ratio
from app.experiments.plan import AlwaysValid, AnalysisPlan, Estimator, FixedHorizon, GroupSequential
from stats.errors import InvalidInput

_ESTIMATORS: Final[dict[str, Callable[[], Estimator]]] = {
    "always-valid": AlwaysValid,
    "fixed-horizon": FixedHorizon,
    "group-sequential": GroupSequential,
}


def readout_of(
    file: Path,
    *,
    specs: Sequence[str],
    lower: Sequence[str],
    guardrails: Sequence[Guardrail],
    caps: Sequence[Cap],
    covariates: tuple[str, ...],
    shares: Sequence[tuple[str, float]] | None,
    plan: str,
    looks: tuple[float, ...] | None,
    columns: dict[str, Any],
    expected_units: int | None,
    **plan_fields: Any,
) -> Readout:
    """Return the readout of a file. `columns` are further fields of `Table`, `plan_fields` of the plan.

    Without `expected_units`, a fixed horizon is the number of units in the file.

    Raises ClickException that names the option, or line and column.
    """
    try:
        metrics = _metrics(specs, set(lower), guardrails, caps)
        _check_covariates(covariates, metrics)
        _check_once(name for name, _ in shares or ())
        table = measurements.Table(
            metrics=metrics, covariates=covariates, shares=None if shares is None else dict(shares), **columns
        )
        analysis_plan = AnalysisPlan(estimator=estimator_of(plan, looks), **plan_fields)
        with in_words(file):
            measured = measurements.read(file, table)
            if expected_units is None and isinstance(analysis_plan.estimator, FixedHorizon):
                expected_units = max(measured.observed.units(), 1)  # the file is the one look
            if expected_units is not None:
                analysis_plan = msgspec.structs.replace(analysis_plan, expected_units=expected_units)
            return analyze(analysis_plan, measured.metrics, measured.observed)
    except (ValueError, InvalidInput) as error:
        raise click.UsageError(str(error)) from error


def _metrics(
    specs: Sequence[str], lower: set[str], guardrails: Sequence[Guardrail], caps: Sequence[Cap]
) -> tuple[Metric, ...]:
    """Return the metrics of the options. Raises ValueError."""
    _check_once(guardrail.metric for guardrail in guardrails)
    _check_once(cap.metric for cap in caps)
    for name in (*(guardrail.metric for guardrail in guardrails), *(cap.metric for cap in caps), *lower):
        if name not in specs:
            hint = suggestion(name, specs)
            raise ValueError(f"{name!r} is not a metric; the metrics are {', '.join(specs)}{hint}")
    margins = {name: Margin(size, relative) for name, size, relative in guardrails}
    bounds = {name: (low, high) for name, low, high in caps}
    metrics: list[Metric] = []
    for spec in specs:
        measure = measurements.measure_of(spec)
        if spec in bounds:
            if not isinstance(measure, Mean | Ratio):
                kind = measure.__struct_config__.tag
                raise ValueError(f"only a mean or a ratio can be capped; {spec!r} is a {kind}")
            measure = msgspec.structs.replace(measure, cap=bounds[spec])
        has_primary = any(metric.role == "primary" for metric in metrics)
        metrics.append(
            Metric(
                key=spec,
                measure=measure,
                role="guardrail" if spec in margins else "secondary" if has_primary else "primary",
                direction="lower" if spec in lower else "higher",
                margin=margins.get(spec),
            )
        )
    return tuple(metrics)


def _check_once(names: Iterable[str]) -> None:
    """Raise ValueError if a name is given twice."""
    for name, times in Counter(names).items():
        if times > 1:
            raise ValueError(f"{name!r} is given twice; remove one")


def _check_covariates(covariates: Sequence[str], metrics: Sequence[Metric]) -> None:
    """Raise ValueError for a covariate that is given twice, or that a metric measures.

    An outcome as covariate would explain its own effect away.
    """
    _check_once(covariates)
    for metric in metrics:
        for name in measurements.columns_of(metric):
            if name in covariates:
                raise ValueError(
                    f"--covariate {name!r} is what the metric {metric.key!r} measures; a covariate must be "
                    "known before the exposure"
                )


def estimator_of(plan: str, looks: tuple[float, ...] | None) -> Estimator:
    """Return the estimator of a plan. Raises ValueError for looks without a plan for them."""
    estimator = _ESTIMATORS[plan]()
    if looks is None:
        return estimator
    if not isinstance(estimator, GroupSequential):
        raise ValueError("--looks needs --plan group-sequential")  # noqa: TRY004 - an option, not a type
    return GroupSequential(looks)
