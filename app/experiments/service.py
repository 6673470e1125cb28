"""Use cases of experiments: define, read, change, and lead through their life."""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final

import structlog
from msgspec import UNSET
from msgspec.structs import replace

from app.core.choices import refusal
from app.core.clock import Clock
from app.core.errors import InvalidInput, NotFound, UnprocessableInput
from app.core.limits import PAGE_SIZE, PAGE_SIZE_MAX
from app.core.text import Key, is_key
from app.experiments import lifecycle
from app.experiments.checks import check, possible
from app.experiments.lifecycle import DefinitionChange, Layer
from app.experiments.metric_history import MetricHistory, metric_history_of
from app.experiments.metric_history_store import UNKNOWN, Author
from app.experiments.model import STATE_KINDS, Definition, Experiment, State
from app.experiments.policies import Policy
from app.experiments.signals import signals_of
from app.experiments.store import ExperimentStore
from app.experiments.warnings import ReceivedSignals, warnings_from_log, warnings_of

Received = Callable[[int, Sequence[str]], Awaitable[ReceivedSignals]]
"""A function that reads what experiments have received of some signals, from a room above this one."""


async def nothing_received(_experiment_id: int, _names: Sequence[str]) -> ReceivedSignals:
    """Return no signals, for a server without a log."""
    return ReceivedSignals()


_LOG = structlog.get_logger(__name__)
_SALT_BYTES: Final = 16


class ExperimentService:
    """Each change is committed together with the note that it is to be published.

    `on_change` is awaited with the experiment's id after the commit, to publish it at once. Should
    it fail, the change stands and the worker publishes it later.
    """

    def __init__(
        self,
        store: ExperimentStore,
        clock: Clock,
        on_change: Callable[[int], Awaitable[object]],
        received: Received = nothing_received,
    ) -> None:
        self._store = store
        self._received = received
        self._clock = clock
        self._on_change = on_change

    async def create(self, definition: Definition) -> Experiment:
        """Create a draft.

        Raises InvalidInput naming the fields; Conflict when the key is taken; UnprocessableInput
        when the policy starts from an experiment that is not there.
        """
        check(definition)
        await self._check_warm_start(definition.policy)
        salt = secrets.token_bytes(_SALT_BYTES)
        experiment = await self._store.insert(definition, salt=salt, at=self._clock.now())
        await self._announce(experiment)
        return experiment

    async def warnings(self, experiment: Experiment) -> list[str]:
        """Return what is valid and probably not meant, also by what experiments have received.

        Never raises: if the log cannot be read, the definition alone is checked.
        """
        definition = experiment.definition
        warnings = warnings_of(definition)
        names = list(signals_of(definition.reward, definition.metrics))
        try:
            log = await self._received(experiment.id, names)
        except Exception as error:  # noqa: BLE001 - warnings never block
            _LOG.warning("warnings_without_log", experiment=experiment.key, reason=repr(error))
            return warnings
        return [*warnings, *warnings_from_log(definition, log)]

    async def get(self, key: str) -> Experiment:
        """Return the experiment with this key. Raises NotFound."""
        return await self._store.find(possible(key))

    async def list(
        self, *, state: str | None = None, after: str | None = None, limit: int = PAGE_SIZE
    ) -> tuple[list[Experiment], str | None]:
        """Return a page in the order of keys, and the key to continue `after`, if any.

        Archived experiments are there only when asked for by `state`. Raises InvalidInput.
        """
        if not 1 <= limit <= PAGE_SIZE_MAX:
            raise InvalidInput(f"must be 1 to {PAGE_SIZE_MAX}, got {limit}", field="limit")
        if state is not None and state not in STATE_KINDS:
            raise InvalidInput(refusal(repr(state), STATE_KINDS), field="state")
        if after is not None and not is_key(after):
            raise InvalidInput("must be the key of an experiment", field="after")
        found = await self._store.page(state=state, after=after, limit=limit + 1)
        return found[:limit], found[limit - 1].key if len(found) > limit else None

    async def layer(self, key: str) -> Layer:
        """Return the held ranges of a layer, in order, and the free ones."""
        found = await self._store.holders(possible(key))
        return lifecycle.ranges(key, found)

    async def change(self, key: str, request: DefinitionChange, by: str | None = None) -> Experiment:
        """Replace some fields of the definition; see `lifecycle.change` for what may change when.

        The history of the metrics names the person, `by`, and the reason of the request.

        Raises UnprocessableInput when a new policy starts from an experiment that is not there.
        """
        if request.policy is not UNSET:
            await self._check_warm_start(request.policy)
        author = Author(by, request.reason, request.reopen_plan)
        return await self._update(key, lambda experiment, _: lifecycle.change(experiment, request), author)

    async def metrics(self, key: str) -> MetricHistory:
        """Return the metrics of an experiment and all changes of them. Raises NotFound."""
        experiment = await self.get(key)
        changes, backfill = await self._store.metric_changes.history(experiment.id)
        return metric_history_of(experiment, changes, backfill)

    async def start(self, key: str) -> Experiment:
        """Begin to assign and learn. Raises Conflict unless it is a draft."""
        return await self._move(key, lifecycle.start)

    async def pause(self, key: str) -> Experiment:
        """Answer the control for a while. Raises Conflict unless it is running."""
        return await self._move(key, lifecycle.pause)

    async def resume(self, key: str) -> Experiment:
        """Assign again. Raises Conflict unless it is paused."""
        return await self._move(key, lambda state, _: lifecycle.resume(state))

    async def stop(self, key: str, winner: Key | None = None) -> Experiment:
        """End it for good; from then on the winner is served, or the control where there is none.

        Raises Conflict unless it is running or paused; UnprocessableInput if the winner is not a
        variant.
        """

        def stopped(experiment: Experiment, at: datetime) -> Experiment:
            state = lifecycle.stop(experiment.state, at, winner)
            lifecycle.check_winner(experiment.definition, winner)
            return replace(experiment, state=state)

        return await self._update(key, stopped)

    async def archive(self, key: str) -> Experiment:
        """Put it out of sight. Raises Conflict unless it is a draft or stopped."""
        return await self._move(key, lifecycle.archive)

    async def _check_warm_start(self, policy: Policy) -> None:
        if warm := policy.starts_from:
            try:
                await self._store.find(warm.experiment)
            except NotFound as error:
                raise UnprocessableInput(error.detail, field="policy.warm_start.experiment") from error

    async def _move(self, key: str, transition: Callable[[State, datetime], State]) -> Experiment:
        return await self._update(
            key, lambda experiment, at: replace(experiment, state=transition(experiment.state, at))
        )

    async def _update(
        self, key: str, change: Callable[[Experiment, datetime], Experiment], author: Author = UNKNOWN
    ) -> Experiment:
        experiment, written = await self._store.update(possible(key), change, self._clock, author)
        if written:
            await self._announce(experiment)
        return experiment

    async def _announce(self, experiment: Experiment) -> None:
        try:
            await self._on_change(experiment.id)
        except Exception as error:  # noqa: BLE001 - the change is committed, and its publication is due
            _LOG.warning("publication_left_to_worker", experiment=experiment.key, reason=repr(error))
