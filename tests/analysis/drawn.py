"""Units of a bandit in strata of shares, as the readout finds them."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.analysis.observed import Cell, DrawnUnits, Observed
from app.experiments.metrics import Metric, Proportion
from stats.concurrent import drawn_alike
from stats.totals import ProportionTotals

SOLVED = Metric(key="solved", measure=Proportion("solved"), role="primary")
Drawn = tuple[int, float, float]
"""Units, rate and share of a variant in a stratum."""


def drawn(strata: Sequence[Mapping[str, Drawn]], **fields: Any) -> Observed:
    """Return what a bandit observed of `solved`; the first variant is the control."""
    cells: dict[str, ProportionTotals] = {}
    units = []
    for number, stratum in enumerate(strata):
        for variant, (n, rate, share) in stratum.items():
            if n:
                totals = ProportionTotals(n, round(n * rate))
                cells[variant] = cells.get(variant, ProportionTotals(0, 0)) + totals
                joint = drawn_alike(totals.moments, propensity=share)
                units.append(DrawnUnits(1, number, variant, {SOLVED.key: joint}))
    variants = tuple(strata[0])
    return Observed(
        variants=variants,
        control=variants[0],
        adaptive=True,
        drawn=units,
        cells=[Cell(1, variant, totals.n, {SOLVED.key: totals}) for variant, totals in cells.items()],
        **fields,
    )
