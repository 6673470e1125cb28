"""Guardrails of rare events: exact from the first event on, at every look, also on a ramp."""

import numpy as np
import pytest
from scipy.stats import binom

from app.analysis.observed import Cell, Observed
from app.analysis.readout.analyze import analyze
from app.experiments.metrics import Margin, Metric, Proportion
from app.experiments.plan import AnalysisPlan
from stats import sequential_counts
from stats.sequential_counts import EventCounts
from stats.totals import ProportionTotals

PLAN = AnalysisPlan(alpha=0.01)
ERRORS = Metric(
    key="error",
    measure=Proportion("error", silence=0),
    role="guardrail",
    direction="lower",
    margin=Margin(1.0, relative=True),
)


def canary(*epochs):
    """The metric and its canary; epochs are ((units, events) of the control, of the canary)."""
    cells = [
        Cell(number, variant, n, {"error": ProportionTotals(n, events)})
        for number, epoch in enumerate(epochs)
        for variant, (n, events) in zip("ab", epoch, strict=True)
    ]
    readout = analyze(PLAN, [ERRORS], Observed(variants=("a", "b"), control="a", cells=cells))
    return readout.metrics[0], readout.metrics[0].variants[1]


def test_a_canary_is_told_by_few_events_where_means_have_no_say_yet():
    metric, found = canary(((9_500, 10), (500, 12)))
    assert metric.method.startswith("counts of bad outcomes")
    assert (metric.decided_on, found.verdict) == ("relative difference", "harm")
    assert found.relative_interval[0] > 0
    assert found.e_value > 100


def test_the_verdict_is_that_of_the_two_one_sided_sequences():
    """A ratio that is proven to be below 2, its margin, is safe; one that is proven to be above 1 is harm.

    Harm is found by two mixtures: one for twice as many events, and one for a total failure.
    """
    for control, treatment in ((0, 3), (0, 9), (40, 1), (190, 10), (190, 20), (190, 40), (900, 48)):
        _, found = canary(((19_000, control), (1_000, treatment)))
        counts = [EventCounts(control, treatment, 0.05)]
        upper = sequential_counts.ratio_sequence(
            counts, alpha=PLAN.alpha, expected_ratio=2.0, alternative="less"
        ).upper
        worse = max(
            part * sequential_counts.ratio_evalue(counts, expected_ratio=scale).value
            for part, scale in ((0.9, 2.0), (0.1, 20.0))
        )
        expected = "better" if upper < 1 else "safe" if upper < 2 else "harm"
        decided = upper < 2 or worse >= 1 / PLAN.alpha
        assert found.verdict == (expected if decided else "not_enough_data"), (control, treatment)


def test_without_any_event_the_ratio_has_no_upper_bound():
    _, found = canary(((10_000, 0), (10_000, 0)))
    assert (found.verdict, found.relative_interval) == ("not_enough_data", (-1.0, None))
    assert found.e_value == pytest.approx(0.9)


def test_a_ramp_whose_baseline_drifts_is_stratified():
    """Errors 10 times as many in the last stage, for all alike; pooled, the canary has 7 times its share."""
    _, found = canary(((99_000, 99), (1_000, 1)), ((7_500, 75), (2_500, 25)))
    assert found.verdict != "harm"
    assert found.relative_interval[0] < 0 < found.relative_interval[1]
    assert found.interval[0] < 0 < found.interval[1]


def test_an_absolute_margin_has_exact_bounds_in_one_epoch_and_sequences_of_means_in_several():
    absolute = Metric(
        key="error", measure=Proportion("error"), role="guardrail", direction="lower", margin=Margin(0.01)
    )
    for epochs in ((1,), (1, 2)):
        cells = [
            Cell(epoch, variant, 5_000, {"error": ProportionTotals(5_000, 20)})
            for epoch in epochs
            for variant in "ab"
        ]
        readout = analyze(PLAN, [absolute], Observed(variants=("a", "b"), control="a", cells=cells))
        assert readout.metrics[0].variants[1].verdict == "safe"


@pytest.mark.parametrize(
    ("rate", "share", "looks"), [(0.002, 0.05, 200), (0.01, 0.5, 200), (0.09, 0.05, 100)]
)
def test_with_the_share_that_came_out_the_error_holds_at_every_look(rate, share, looks):
    """False harm of one that is alike, false safety of one at the margin; planted bug: z at each look."""
    rng, runs, alpha = np.random.default_rng(20260101 + 980), 400, 0.05
    n_t = rng.binomial(500, share, (runs, looks))
    n_c = 500 - n_t
    limit = binom.ppf(1 - 1e-6, runs, alpha)
    for ratio, alternative in ((1.0, "greater"), (2.0, "less")):
        k_t, k_c = rng.binomial(n_t, rate * ratio).cumsum(1), rng.binomial(n_c, rate).cumsum(1)
        realised = n_t.cumsum(1) / (n_t + n_c).cumsum(1)
        evidence = sequential_counts.log_ratio_mixture(
            k_c[..., None],
            k_t[..., None],
            realised[..., None],
            ratio=ratio,
            expected_ratio=2.0,
            alternative=alternative,
        )
        assert (evidence >= -np.log(alpha)).any(axis=1).sum() <= limit
        if ratio == 1.0:
            total_t, total_c = n_t.cumsum(1), n_c.cumsum(1)
            pooled = (k_t + k_c) / (total_t + total_c)
            error = np.sqrt(pooled * (1 - pooled) * (1 / total_t + 1 / total_c) + 1e-12)
            z = (k_t / total_t - k_c / total_c) / error
            assert (z[:, 4:] > 1.645).any(axis=1).sum() > limit
