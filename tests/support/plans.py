"""Plans of analysis, as tests read data by them."""

from msgspec.structs import replace

from app.analysis.observed import Observed
from app.experiments.plan import AnalysisPlan, FixedHorizon


def at_its_horizon(plan: AnalysisPlan, observed: Observed) -> AnalysisPlan:
    """Return the plan with its one look at these data, if it has one look."""
    if not isinstance(plan.estimator, FixedHorizon):
        return plan
    return replace(plan, expected_units=max(observed.units(), 1))
