"""One question about harm, and its answer: a proof for each side and what it was made from. Pure.

*Worsening* is an effect with its sign turned so that more of it is worse.
"""

import math
from typing import Annotated, Literal

import msgspec

from app.analysis.bounds import Bounds, bounds_of
from app.analysis.harm.verdict import Verdict, verdict_of
from app.core.limits import SIGNAL_VALUE_MAX
from app.experiments.metrics import Margin, Metric
from stats.one_sided import Claim

Scale = Literal["log e-value", "log likelihood ratio", "bound"]


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mean and standard deviation of one unit under the control, known before the start.

    They decide where tests are strongest and how long to wait. The guarantees do not depend on
    them.
    """

    mean: Annotated[float, msgspec.Meta(ge=-SIGNAL_VALUE_MAX, le=SIGNAL_VALUE_MAX)]
    sd: Annotated[float, msgspec.Meta(gt=0, le=SIGNAL_VALUE_MAX)]


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a test at one look: it is `proven` if the statistic has reached the threshold.

    `level` is the probability that a wrong proof is ever made, over all looks. `since_epoch` is the
    first epoch whose data are used. On the scales `log e-value` and `log likelihood ratio` the
    statistic must reach the threshold. On the scale `bound` it is a confidence bound of the
    worsening: a lower bound must be above the threshold, an upper bound below it.
    """

    scale: Scale
    statistic: float
    threshold: float
    level: float
    since_epoch: int
    proven: bool


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The two proofs about a treatment, and the estimates that they were made from.

    `units` and `means` are those of (control, treatment). `effect` and `interval` are relative to
    the control's mean if `relative`, else differences; each bound of the interval misses with the
    level of its proof. `factor` is about how many times as much data a proof needs if the effect
    stays the same; None if unknown. `note` says which test decides instead of the usual one, and
    why; it is empty for the usual one.
    """

    method: str
    units: tuple[int, int]
    means: tuple[float, float]
    relative: bool
    effect: float | None
    interval: Bounds | None
    worse: Proof
    within: Proof
    factor: float | None = None
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """The verdict that both proofs give together."""
        return verdict_of(worse=self.worse.proven, within=self.within.proven)


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """The question whether a treatment is worse than the control on a metric in these epochs.

    `worse_level` and `within_level` are the probabilities of ever making either proof wrongly.
    `pooled` are epochs with the same shares: methods that cannot be stratified use these only,
    because shares that move would mix the days of both variants differently.
    """

    metric: Metric
    margin: Margin
    baseline: Baseline | None = None
    test: Literal["sequence", "sprt"] = "sequence"
    treatment: str
    epochs: tuple[int, ...]
    pooled: tuple[int, ...]
    worse_level: float
    within_level: float

    @property
    def sign(self) -> Literal[1, -1]:
        """1 if higher values are worse, else -1."""
        return 1 if self.metric.direction == "lower" else -1

    @property
    def worse_claim(self) -> Claim:
        """The one-sided claim that the treatment is worse."""
        return "greater" if self.sign > 0 else "less"

    @property
    def within_claim(self) -> Claim:
        """The one-sided claim that the treatment is not worse by the margin."""
        return "less" if self.sign > 0 else "greater"

    def margin_at(self, control: float) -> float:
        """Return the margin in the metric's own unit, for a control with this mean."""
        return self.margin.size * (abs(control) if self.margin.relative else 1.0)

    def proof(
        self,
        side: Literal["worse", "within"],
        statistic: float,
        *,
        scale: Scale = "log e-value",
        threshold: float | None = None,
    ) -> Proof:
        """Return the record of one side. The default threshold is that of a log e-value: -log(level)."""
        level = self.worse_level if side == "worse" else self.within_level
        threshold = -math.log(level) if threshold is None else threshold
        if scale != "bound":
            proven = statistic >= threshold
        elif side == "worse":
            proven = statistic > threshold
        else:
            # What is proven not to be worse at all is within every margin, also within a margin of 0.
            proven = statistic < threshold or statistic <= 0
        return Proof(
            scale=scale,
            statistic=min(max(statistic, -1e300), 1e300),  # JSON has no infinity
            threshold=threshold,
            level=level,
            since_epoch=self.epochs[0],
            proven=proven,
        )

    def answer(
        self,
        *,
        method: str,
        units: tuple[int, int],
        means: tuple[float, float],
        worse: Proof,
        within: Proof,
        worsening: tuple[float, float] | None = None,
        relative: bool | None = None,
        factor: float | None = None,
        note: str = "",
    ) -> Answer:
        """Return the answer. `worsening` are the bounds of the worsening, `relative` is the margin's."""
        control, treatment = means
        relative = self.margin.relative if relative is None else relative
        effect: float | None = treatment - control
        if relative:
            effect = (treatment - control) / abs(control) if control else None
        interval = None
        if worsening is not None:
            interval = bounds_of(*sorted(self.sign * bound for bound in worsening))
        return Answer(
            method=method,
            units=units,
            means=means,
            relative=relative,
            effect=effect if effect is not None and math.isfinite(effect) else None,
            interval=interval,
            worse=worse,
            within=within,
            factor=factor,
            note=note,
        )
