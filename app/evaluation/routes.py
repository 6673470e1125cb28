"""Off-policy evaluation over HTTP. Needs the dependency `evaluation: EvaluationService`."""

from typing import Final

from litestar import post

from app.access.guards import requires
from app.access.model import Scope
from app.evaluation.model import Evaluation, EvaluationRequest
from app.evaluation.service import EvaluationService


@post("/experiments/{key:str}/evaluate", guards=[requires(Scope.READ)], status_code=200)
async def evaluate_policy(key: str, data: EvaluationRequest, evaluation: EvaluationService) -> Evaluation:
    """Ask what another policy would have earned on the logged traffic, from its propensities.

    422 when the log cannot say: it has too few rewards, or too rarely served what the policy would
    serve.
    """
    return await evaluation.evaluate(key, data)


ROUTES: Final = [evaluate_policy]
