"""Definitions and their life over HTTP.

Needs the dependency `experiment_service: ExperimentService`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Self

import msgspec
from litestar import Request, get, patch, post
from litestar.params import Parameter

from app.access.guards import requires
from app.access.model import Scope
from app.core.limits import PAGE_SIZE, PAGE_SIZE_MAX
from app.core.text import Key
from app.experiments.catalogue import CatalogueEntry, entries
from app.experiments.lifecycle import DefinitionChange, Layer
from app.experiments.metric_history import MetricHistory
from app.experiments.model import STATE_KINDS, Definition, Experiment, StateKind, kind_of
from app.experiments.reward_text import reward_in_words
from app.experiments.service import ExperimentService
from app.experiments.warnings import warnings_of


class ExperimentView(Definition, frozen=True, kw_only=True):
    """A definition and where it is in its life. Times that have not come are null.

    `reward_in_words` describes the reward. `warnings` tell what is valid and probably not meant.
    """

    state: StateKind
    started_at: datetime | None = None
    paused_at: datetime | None = None
    stopped_at: datetime | None = None
    archived_at: datetime | None = None
    winner: Key | None = None
    killed: bool = False
    held: dict[str, float]
    epoch: int
    revision: int
    created_at: datetime
    updated_at: datetime
    reward_in_words: str = ""
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, experiment: Experiment, warnings: Sequence[str] | None = None) -> Self:
        """Convert a stored experiment; its salt stays secret. None: warnings of its definition."""
        return cls(
            **msgspec.structs.asdict(experiment.definition),
            **msgspec.structs.asdict(experiment.state),
            state=kind_of(experiment.state),
            killed=experiment.killed,
            held=experiment.held,
            epoch=experiment.epoch,
            revision=experiment.revision,
            created_at=experiment.created_at,
            updated_at=experiment.updated_at,
            reward_in_words=reward_in_words(experiment.definition.reward),
            warnings=tuple(warnings_of(experiment.definition) if warnings is None else warnings),
        )


class ExperimentPage(msgspec.Struct, frozen=True):
    """Experiments in the order of their keys.

    `next`: the key to pass as `after`; null on the last page.
    """

    experiments: list[ExperimentView]
    next: str | None


class StopRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`winner`: the variant to serve from now on; null: the control."""

    winner: Key | None = None


class SignalCatalogue(msgspec.Struct, frozen=True):
    """The signals that Wald knows. A definition may declare others in its field `signals`."""

    signals: list[CatalogueEntry]


@post("/experiments", guards=[requires(Scope.ADMIN)], status_code=201)
async def create_experiment(data: Definition, experiment_service: ExperimentService) -> ExperimentView:
    """Define an experiment; it is a draft until it is started. 409 when the key is taken."""
    experiment = await experiment_service.create(data)
    return ExperimentView.of(experiment, await experiment_service.warnings(experiment))


@get("/experiments", guards=[requires(Scope.READ)])
async def list_experiments(
    experiment_service: ExperimentService,
    in_state: Annotated[
        str | None, Parameter(query="state", schema_extra={"enum": list(STATE_KINDS)})
    ] = None,
    after: str | None = None,
    limit: Annotated[int, Parameter(ge=1, le=PAGE_SIZE_MAX)] = PAGE_SIZE,
) -> ExperimentPage:
    """List experiments, a page at a time; archived ones only by `state=archived`."""
    page, following = await experiment_service.list(state=in_state, after=after, limit=limit)
    return ExperimentPage([ExperimentView.of(experiment) for experiment in page], following)


@get("/experiments/{key:str}", guards=[requires(Scope.READ)])
async def get_experiment(key: str, experiment_service: ExperimentService) -> ExperimentView:
    """Read an experiment."""
    return ExperimentView.of(await experiment_service.get(key))


@get("/signals", guards=[requires(Scope.READ)])
async def list_signals() -> SignalCatalogue:
    """Read the catalogue of signals: meaning, source, direction, range, default value and noise."""
    return SignalCatalogue(entries())


@get("/layers/{key:str}", guards=[requires(Scope.READ)])
async def get_layer(key: str, experiment_service: ExperimentService) -> Layer:
    """Read who holds which range of a layer, and what is free."""
    return await experiment_service.layer(key)


@patch("/experiments/{key:str}", guards=[requires(Scope.ADMIN)])
async def change_experiment(
    key: str,
    data: DefinitionChange,
    request: Request[Any, Any, Any],
    experiment_service: ExperimentService,
) -> ExperimentView:
    """Replace fields of the definition, each as a whole.

    A draft may change in all but its key. A running or paused experiment may change in description,
    policy and variants (which open a new epoch), metrics, segments, reward, shadow policy,
    targeting, overrides and signals. A stopped one may change in description, shadow policy and
    signals. 409 for anything else.

    Changed metrics are measured from the log in the background: `GET /experiments/{key}/metrics`.
    """
    by = f"key {request.state.api_key.id}"
    experiment = await experiment_service.change(key, data, by)
    return ExperimentView.of(experiment, await experiment_service.warnings(experiment))


@get("/experiments/{key:str}/metrics", guards=[requires(Scope.READ)])
async def metric_history(key: str, experiment_service: ExperimentService) -> MetricHistory:
    """Read the metrics of an experiment, every change of them after the start, and the backfill."""
    return await experiment_service.metrics(key)


@post("/experiments/{key:str}/start", guards=[requires(Scope.ADMIN)], status_code=200)
async def start_experiment(key: str, experiment_service: ExperimentService) -> ExperimentView:
    """Begin to assign and learn.

    409 unless it is a draft whose range of its layer, if any, is free.
    """
    experiment = await experiment_service.start(key)
    return ExperimentView.of(experiment, await experiment_service.warnings(experiment))


@post("/experiments/{key:str}/pause", guards=[requires(Scope.ADMIN)], status_code=200)
async def pause_experiment(key: str, experiment_service: ExperimentService) -> ExperimentView:
    """Answer the control for a while, and go on learning. 409 unless it is running."""
    return ExperimentView.of(await experiment_service.pause(key))


@post("/experiments/{key:str}/resume", guards=[requires(Scope.ADMIN)], status_code=200)
async def resume_experiment(key: str, experiment_service: ExperimentService) -> ExperimentView:
    """Assign again. 409 unless it is paused."""
    return ExperimentView.of(await experiment_service.resume(key))


@post("/experiments/{key:str}/stop", guards=[requires(Scope.ADMIN)], status_code=200)
async def stop_experiment(
    key: str, experiment_service: ExperimentService, data: StopRequest | None = None
) -> ExperimentView:
    """End it for good, with a winner or none. 409 unless it is running or paused."""
    return ExperimentView.of(await experiment_service.stop(key, None if data is None else data.winner))


@post("/experiments/{key:str}/archive", guards=[requires(Scope.ADMIN)], status_code=200)
async def archive_experiment(key: str, experiment_service: ExperimentService) -> ExperimentView:
    """Put it out of sight; its log is kept. 409 unless it is a draft or stopped."""
    return ExperimentView.of(await experiment_service.archive(key))


ROUTES: Final = [
    create_experiment,
    list_experiments,
    get_experiment,
    list_signals,
    get_layer,
    change_experiment,
    metric_history,
    start_experiment,
    pause_experiment,
    resume_experiment,
    stop_experiment,
    archive_experiment,
]
