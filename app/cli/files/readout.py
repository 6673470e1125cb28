"""What `wald analyze` does: the readout of a file, without a server."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import rich_click as click

from app.analysis.readout.analyze import analyze
from app.cli import figures, measurements, readout_display, records
from app.cli.records import UnreadableLog
from app.cli.terminal import emit_json, out
from app.experiments.metrics import Margin, Mean, Measure, Metric, Ratio
from app.experiments.plan import AlwaysValid, AnalysisPlan, Estimator, FixedHorizon, GroupSequential
from stats.errors import InvalidInput
from stats.multiplicity import Role

_ESTIMATORS: Final[dict[str, Callable[[], Estimator]]] = {
    "always-valid": AlwaysValid,
    "fixed-horizon": FixedHorizon,
    "group-sequential": GroupSequential,
}


def show_readout(file: Path, *, figure: Path | None, as_json: bool, options: dict[str, Any]) -> None:
    """Print the readout of a file, as the command's options have it. Raises ClickException in words."""
    try:
        table = _table(options)
        plan = _plan(options)
        measured = measurements.read(file, table)
        found = analyze(plan, measured.metrics, measured.observed)
    except UnreadableLog as error:
        raise click.ClickException(f"{file}: {error}") from error
    except (ValueError, InvalidInput) as error:
        raise click.UsageError(str(error)) from error
    if figure is not None:
        figures.write_forest(found, figure)
    if as_json:
        emit_json(found)
        return
    console = out()
    console.print(readout_display.readout_report(found))
    if figure is not None:
        console.print(f"\nThe forest plot is in {figure}")


def _table(options: dict[str, Any]) -> measurements.Table:
    """Raises ValueError in words."""
    margins = _each_once([_named(text, "--guardrail NAME=MARGIN") for text in options["guardrail"]])
    caps = _each_once([_named(text, "--cap NAME=LOW:HIGH") for text in options["cap"]])
    specs = options["specs"]
    for given in (*margins, *caps, *options["lower"]):
        if given not in specs:
            hint = records.suggestion(given, specs)
            raise ValueError(f"{given!r} is not a metric; there are {', '.join(specs)}{hint}")
    metrics: list[Metric] = []
    for spec in specs:
        measure = measurements.measure_of(spec)
        if spec in caps:
            if not isinstance(measure, Mean | Ratio):
                raise ValueError(f"only a mean or a ratio can be capped; {spec!r} is a {_kind(measure)}")
            measure = msgspec.structs.replace(measure, cap=_cap(caps[spec]))
        has_primary = any(metric.role == "primary" for metric in metrics)
        role: Role = "guardrail" if spec in margins else "secondary" if has_primary else "primary"
        metrics.append(
            Metric(
                key=spec,
                measure=measure,
                role=role,
                direction="lower" if spec in options["lower"] else "higher",
                margin=_margin(margins[spec]) if spec in margins else None,
            )
        )
    _check_covariates(options["covariates"], metrics)
    return measurements.Table(
        unit=options["unit"],
        variant=options["variant"],
        metrics=tuple(metrics),
        control=options["control"],
        covariates=options["covariates"],
        segment=options["segment"],
        epoch=options["epoch"],
        propensity=options["propensity"],
        shares=_shares(options["shares"]),
        where=options["where"],
        days=options["days"],
        decimal=options["decimal"],
    )


def _each_once(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Raises ValueError if a name is given two values."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name in found if [one for one, _ in pairs].count(name) > 1)
        raise ValueError(f"{twice!r} is given twice; one value must be left out")
    return found


def _check_covariates(covariates: Sequence[str], metrics: Sequence[Metric]) -> None:
    """Raises ValueError if one is given twice, or is the outcome itself: adjusting would explain it away."""
    _each_once([(name, "") for name in covariates])
    for metric in metrics:
        for name in measurements.columns_of(metric):
            if name in covariates:
                raise ValueError(
                    f"--covariate {name!r} is what the metric {metric.key!r} measures; a covariate must be "
                    "known before the exposure"
                )


def _kind(measure: Measure) -> str:
    return str(measure.__struct_config__.tag)


def _named(text: str, form: str) -> tuple[str, str]:
    name, equals, value = text.rpartition("=")
    if not (name and equals and value):
        raise ValueError(f"must be {form}, got {text!r}")
    return name, value


def _float(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{what} must be a finite number, got {text!r}")
    return value


def _margin(text: str) -> Margin:
    relative = text.endswith("%")
    size = _float(text.removesuffix("%"), "a margin") / (100 if relative else 1)
    if not size > 0:
        raise ValueError(f"a margin must be positive, got {text}")
    return Margin(size, relative)


def _cap(text: str) -> tuple[float | None, float | None]:
    low, colon, high = text.partition(":")
    if not colon or not (low or high):
        raise ValueError(f"a cap is LOW:HIGH, LOW: or :HIGH, got {text!r}")
    return (_float(low, "LOW") if low else None, _float(high, "HIGH") if high else None)


def _shares(text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    pairs = _each_once([_named(part.strip(), "--shares A=.5,B=.5") for part in text.split(",")])
    return {name: _float(value, f"the share of {name}") for name, value in pairs.items()}


def _plan(options: dict[str, Any]) -> AnalysisPlan:
    estimator = _ESTIMATORS[options["plan"]]()
    if options["looks"] is not None:
        if not isinstance(estimator, GroupSequential):
            raise ValueError("--looks belongs to --plan group-sequential")
        estimator = GroupSequential(tuple(_float(look, "a look") for look in options["looks"].split(",")))
    return AnalysisPlan(
        alpha=options["alpha"],
        estimator=estimator,
        correction=options["correction"],
        minimum_effect=options["minimum_effect"],
        expected_units=options["expected_units"],
    )
