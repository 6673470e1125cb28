"""The status API. It needs the dependency `analysis: AnalysisService`."""

from datetime import datetime
from typing import Annotated, Any, Final

from litestar import Response, get, post
from litestar.params import Parameter
from litestar.response import Stream

from app.access.guards import requires
from app.access.model import Scope
from app.analysis.aa import Aa, AaQuestion
from app.analysis.aggregated import AggregatedQuestion
from app.analysis.export import MEDIA_TYPES, Format
from app.analysis.readout.model import Status
from app.analysis.readout.record import Readout
from app.analysis.series import Series
from app.analysis.service import AnalysisService
from app.analysis.signals import SignalsReport
from app.experiments.metrics import REWARD


@get("/experiments/{key:str}/status", guards=[requires(Scope.READ)])
async def experiment_status(
    key: str, analysis: AnalysisService, at: datetime | None = None
) -> Response[Status]:
    """Read how an experiment is doing: allocation now and over time, and per variant what is known.

    With `at`, what was known then: the newest status kept that is not after it; 404 before the
    first.
    """
    if at is None:
        return Response(await analysis.status(key))
    # As it was kept: fields that came later are not in it.
    kept: Any = await analysis.status_at(key, at)
    return Response(kept)


@get("/experiments/{key:str}/signals", guards=[requires(Scope.READ)])
async def experiment_signals(
    key: str, analysis: AnalysisService, *, coverage: bool = True, label: str | None = None
) -> SignalsReport:
    """Read what has become of the signals of an experiment: counted, waiting, late, or lost, by name.

    As of the last commit of the ledger. Names that nothing reads are listed with the name they resemble.
    `coverage` has the share of assignments with each signal in a sample, delays, and what signals
    say about labels. `label` names the signal that is the label; by default, it is a human one.
    """
    return await analysis.signals(key, coverage=coverage, label=label)


@get("/experiments/{key:str}/series", guards=[requires(Scope.READ)])
async def metric_series(
    key: str,
    analysis: AnalysisService,
    *,
    metric: str = REWARD,
    since: datetime | None = None,
    until: datetime | None = None,
    step_s: int = 3_600,
    seasonal: bool = False,
) -> Series:
    """Read a metric over time, per variant in steps: units by their first assignment.

    With `seasonal` also without what is usual of the control at each hour and weekday.
    """
    return await analysis.series(key, metric, since=since, until=until, step_s=step_s, seasonal=seasonal)


@get("/experiments/{key:str}/assignments", guards=[requires(Scope.READ)], media_type="text/csv")
async def export_assignments(
    key: str,
    analysis: AnalysisService,
    file_format: Annotated[Format, Parameter(query="format")] = "csv",
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    exact: bool = False,
) -> Stream:
    """Download the logged assignments as CSV, JSONL or Parquet.

    Columns are propensities, rewards, contexts, and the value of every signal and metric.

    `since` and `until` limit the times of assignment. In CSV a text that a spreadsheet would run as
    a formula has an apostrophe before it, unless `exact`.
    """
    parts = await analysis.export(key, file_format, since=since, until=until, exact=exact)
    name = f'attachment; filename="{key}.{file_format}"'
    return Stream(parts, media_type=MEDIA_TYPES[file_format], headers={"Content-Disposition": name})


@post("/experiments/{key:str}/aa", guards=[requires(Scope.READ)], status_code=200)
async def replay_aa(key: str, data: AaQuestion, analysis: AnalysisService) -> Aa:
    """Ask how often the experiment's own plan decides where nothing differs, and how large the noise is.

    The units of its control are split in two at random, again and again. 422 while there are too few.
    """
    return await analysis.aa(key, data)


@post("/analyze", guards=[requires(Scope.READ)], status_code=200)
async def analyze_totals(data: AggregatedQuestion, analysis: AnalysisService) -> Readout:
    """Analyze totals from elsewhere: rows of variant, n and successes, or variant, n, mean and sd.

    The readout is that of an experiment. 422 names each row and field that does not fit.
    """
    return await analysis.aggregated(data)


ROUTES: Final = [
    analyze_totals,
    experiment_status,
    experiment_signals,
    metric_series,
    export_assignments,
    replay_aa,
]
