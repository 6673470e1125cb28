"""What `wald analyze` does: the readout of a file, without a server."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import rich_click as click

from app.analysis.analyze import analyze
from app.clients import figures, measurements, readout_display
from app.clients.logged import UnreadableLog
from app.core.terminal import emit_json, out
from app.experiments.metrics import Margin, Mean, Metric
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
    margins = dict(_named(text, "--guardrail NAME=MARGIN") for text in options["guardrail"])
    caps = dict(_named(text, "--cap NAME=LOW:HIGH") for text in options["cap"])
    specs = options["specs"]
    for given in (*margins, *caps, *options["lower"]):
        if given not in specs:
            raise ValueError(f"{given!r} is none of the metrics: {', '.join(specs)}")
    metrics: list[Metric] = []
    for spec in specs:
        measure = measurements.measure_of(spec)
        if spec in caps:
            if not isinstance(measure, Mean):
                raise ValueError(f"only a mean can be capped, {spec!r} is none")
            measure = Mean(measure.signal, _cap(caps[spec]))
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
    )


def _named(text: str, form: str) -> tuple[str, str]:
    name, equals, value = text.rpartition("=")
    if not (name and equals and value):
        raise ValueError(f"must be {form}, got {text!r}")
    return name, value


def _float(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{what} must be a number, got {text!r}") from None


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
    pairs = [_named(part, "--shares A=.5,B=.5") for part in text.split(",")]
    return {name: _float(value, f"the share of {name}") for name, value in pairs}


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
