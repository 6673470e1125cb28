"""Use cases of evaluation."""

from functools import partial

from app.core.clock import Clock
from app.core.computing import Computing
from app.core.errors import InvalidInput
from app.evaluation.model import Evaluation, EvaluationRequest, evaluate
from app.evaluation.store import EvaluationStore
from app.evaluation.targets import attributes, target
from app.experiments.service import ExperimentService
from bandits.features import Schema
from stats.errors import InvalidInput as OutOfBounds


class EvaluationService:
    """Reads the log, and computes off the event loop."""

    def __init__(
        self, experiments: ExperimentService, store: EvaluationStore, clock: Clock, computing: Computing
    ) -> None:
        self._experiments = experiments
        self._store = store
        self._clock = clock
        self._computing = computing

    async def evaluate(self, key: str, request: EvaluationRequest) -> Evaluation:
        """Evaluate a policy. Raises NotFound, InvalidInput, UnprocessableInput or Unavailable.

        If silence is a reward, assignments count after their horizon: before it, those with a
        signal would stand for those that stay silent.
        """
        experiment = await self._experiments.get(key)
        for name, at in (("since", request.since), ("until", request.until)):
            if at is not None and at.tzinfo is None:
                raise InvalidInput("needs an offset, as in 2030-01-31T00:00:00+00:00", field=name)
        try:
            Schema(request.features or ())
        except OutOfBounds as error:
            raise InvalidInput(str(error), field="features") from error
        definition = experiment.definition
        # A mistake in the request is reported before the log is read.
        policy = target(request.policy, definition)
        log = await self._store.log(
            experiment,
            since=request.since,
            until=request.until,
            attributes=attributes(policy, request.features or ()),
            ripe_at=None if definition.reward.silence is None else self._clock.now(),
        )
        return await self._computing.run(partial(evaluate, definition, request, log))
