"""Whether a rollout fits its experiment. Pure."""

from app.experiments.model import Definition
from app.rollouts.model import Plan, PlanRequest


def resolve(request: PlanRequest, definition: Definition) -> Plan:
    """The plan in full: named guardrails looked up, first among the experiment's metrics, then the presets.

    Raises InvalidInput with one error per field that does not fit.
    """
    raise NotImplementedError(request, definition)


def check(plan: Plan, definition: Definition) -> Plan:
    """The plan, if it fits the experiment. Raises InvalidInput with one error per field that does not."""
    raise NotImplementedError(plan, definition)
