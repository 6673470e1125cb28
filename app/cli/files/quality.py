"""The quality of each variant, from a judge's scores and some labels by people."""

from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import rich_click as click

from app.cli.files import records
from app.cli.files.records import UnreadableLog
from stats.errors import InsufficientData
from stats.estimate import Estimate
from stats.prediction_powered import JudgedTotals, prediction_powered_mean

_GUARANTEE: Final = "fixed horizon: valid at one planned look, for units labelled at random"
_OPTIONS_OF_METRICS: Final = (
    "specs", "lower", "guardrails", "caps", "covariates", "segment", "epoch", "propensity", "shares", "looks",
    "minimum_effect", "days",
)  # fmt: skip


class VariantQuality(msgspec.Struct, frozen=True, kw_only=True):
    """The quality of one variant: the mean label over all its units, estimated with the judge's help.

    `judge_mean` is the judge's plain mean, `bias` how far it is from the estimate. `label_gain` says how many
    times more labels would give the same precision without the judge. Effects are against the control.
    `reason` says why a variant has no estimate.
    """

    variant: str
    control: bool
    units: int
    labels: int
    judge_mean: float | None = None
    quality: float | None = None
    interval: tuple[float, float] | None = None
    bias: float | None = None
    label_gain: float | None = None
    effect: float | None = None
    effect_interval: tuple[float, float] | None = None
    p_value: float | None = None
    reason: str = ""


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Quality per variant; the intervals of effects hold together at `alpha` (Bonferroni)."""

    judge: str
    label: str
    alpha: float
    guarantee: str
    variants: tuple[VariantQuality, ...]


def quality_of(file: Path, *, judge: str, label: str, options: dict[str, Any]) -> Quality:
    """Return the quality of each variant in a file. Raises ClickException with the reason."""
    if any(options[name] for name in _OPTIONS_OF_METRICS):
        raise click.UsageError("--judge and --label take no options of metrics; run --metric on its own")
    with records.in_words(file):
        return read_quality(file, judge=judge, label=label, options=options)


def read_quality(file: Path, *, judge: str, label: str, options: dict[str, Any]) -> Quality:
    """Estimate the quality of each variant. Raises UnreadableLog for a file that does not hold it."""
    unit, variant, inclusion = options["unit"], options["variant"], options["inclusion"]
    rows = records.read(
        file,
        records.Wanted(
            texts=(unit, variant),
            numbers=tuple(dict.fromkeys([judge, label, *([inclusion] if inclusion else [])])),
            where=options["where"],
            filled=(unit, variant),
            decimal=options["decimal"],
        ),
    )
    _check_rows(rows, unit, judge, inclusion)
    names = sorted(set(rows.texts[variant]))
    control = options["control"] or ("control" if "control" in names else names[0])
    if control not in names:
        hint = records.suggestion(control, names)
        raise UnreadableLog(
            f"column {variant!r}: the control {control!r} is not among {', '.join(names)}{hint}"
        )
    probabilities = rows.numbers[inclusion] if inclusion else np.ones(len(rows.lines))
    in_variant = np.array(rows.texts[variant])
    totals = {
        name: JudgedTotals.from_observations(
            rows.numbers[judge][in_variant == name],
            rows.numbers[label][in_variant == name],
            probabilities[in_variant == name],
        )
        for name in [control, *(name for name in names if name != control)]
    }
    return Quality(
        judge=judge,
        label=label,
        alpha=options["alpha"],
        guarantee=_GUARANTEE,
        variants=_variants(totals, control, options["alpha"]),
    )


def _check_rows(rows: records.Records, unit: str, judge: str, inclusion: str | None) -> None:
    """Raise UnreadableLog for a unit with several rows, a missing score, or an impossible probability."""
    seen: set[str] = set()
    for line, name in zip(rows.lines, rows.texts[unit], strict=True):
        if name in seen:
            raise UnreadableLog(f"line {line}, column {unit!r}: {name!r} has several rows; give one per unit")
        seen.add(name)
    for position in np.flatnonzero(np.isnan(rows.numbers[judge])):
        raise UnreadableLog(f"line {rows.lines[position]}, column {judge!r}: is empty; score every unit")
    if inclusion is not None:
        values = rows.numbers[inclusion]
        for position in np.flatnonzero(~((values > 0) & (values <= 1))):
            line, value = rows.lines[position], values[position]
            raise UnreadableLog(f"line {line}, column {inclusion!r}: must be in (0, 1]; got {value:g}")


def _variants(totals: dict[str, JudgedTotals], control: str, alpha: float) -> tuple[VariantQuality, ...]:
    level = alpha / max(len(totals) - 1, 1)
    base: Estimate | None = None
    variants = []
    for name, total in totals.items():  # the control comes first
        judge_mean = total.judge_mean
        row = VariantQuality(
            variant=name,
            control=name == control,
            units=total.moments.n,
            labels=total.n_labelled,
            judge_mean=judge_mean,
        )
        try:
            powered = prediction_powered_mean(total)
        except InsufficientData as error:
            variants.append(msgspec.structs.replace(row, reason=str(error)))
            continue
        row = msgspec.structs.replace(
            row,
            quality=powered.mean.value,
            interval=_bounds(powered.mean, alpha),
            bias=powered.removed_bias,
            label_gain=powered.label_gain,
        )
        if row.control:
            base = powered.mean
        elif base is not None:
            effect = powered.mean - base
            row = msgspec.structs.replace(
                row,
                effect=effect.value,
                effect_interval=_bounds(effect, level),
                p_value=effect.test().p_value,
            )
        variants.append(row)
    return tuple(variants)


def _bounds(estimate: Estimate, alpha: float) -> tuple[float, float]:
    bounds = estimate.interval(alpha=alpha)
    return bounds.lower, bounds.upper
