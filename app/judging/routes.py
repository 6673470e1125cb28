"""Judges and judging rules over HTTP.

Needs the dependencies `judge_registry`, `judging_rules`, `judge_trust` and `judge_reports`.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema

from app.access.guards import requires
from app.access.model import Scope
from app.core.clock import SystemClock
from app.core.limits import DESCRIPTION_LENGTH_MAX
from app.judging.judges.model import VersionHash
from app.judging.model import RuleRequest, StoredVersion, signal_of
from app.judging.registry_service import RegistryService
from app.judging.report_service import ReportService, VersionDiff, VersionReport, VersionView
from app.judging.rule_service import Estimate, RuleChange, RuleService, RuleView
from app.judging.trust import Trust
from app.judging.trust_service import TrustService


class JudgeSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A judge with its newest and its promoted version; `promoted` is null if none is."""

    judge: str
    kind: str
    axis: str
    signal: str
    versions: int
    newest: VersionHash
    promoted: VersionHash | None

    @classmethod
    def of(cls, versions: list[StoredVersion]) -> "JudgeSummary":
        """Return the summary of the versions of one judge, the newest first."""
        newest = versions[0]
        promoted = [version.hash for version in versions if version.trust is Trust.PROMOTED]
        return cls(
            judge=newest.name,
            kind=str(newest.version.__struct_config__.tag),
            axis=newest.version.axis,
            signal=signal_of(newest.name),
            versions=len(versions),
            newest=newest.hash,
            promoted=promoted[0] if promoted else None,
        )


class JudgeList(msgspec.Struct, frozen=True):
    """All judges, by name."""

    judges: list[JudgeSummary]


class VersionList(msgspec.Struct, frozen=True):
    """The versions of a judge, the newest first."""

    judge: str
    versions: list[VersionView]


class RuleList(msgspec.Struct, frozen=True):
    """The judging rules of an experiment, the oldest first."""

    rules: list[RuleView]


class Demotion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Reason for which a version goes back to shadow. It is stored."""

    reason: Annotated[str, msgspec.Meta(max_length=DESCRIPTION_LENGTH_MAX)]


@dataclass
class _Written(Schema):
    """A JSON Schema that msgspec wrote."""

    written: dict[str, Any] = field(default_factory=dict)

    def to_schema(self) -> dict[str, Any]:
        """Return the schema for litestar's document."""
        return self.written


@dataclass
class _Definition(Operation):
    """The operation with its body, which the framework does not decode."""

    def __post_init__(self) -> None:
        content = {"application/json": OpenAPIMediaType(schema=_Written(written={"type": "object"}))}
        self.request_body = RequestBody(content=content, required=True)


@post("/judges", guards=[requires(Scope.ADMIN)], status_code=201, operation_class=_Definition)
async def register_judge(
    request: Request[Any, Any, Any], judge_registry: RegistryService
) -> Response[VersionView]:
    """Register a judge version, which starts in shadow.

    Body: `{kind: rule | local | llm | decision | plugin, name, axis?, serves_arm?, ...}` with the
    settings of the kind. A new model, prompt or rubric is a new version (201). A definition that is
    known is the same version (200); only its `operation` and `serves_arm` are replaced.
    """
    stored, new = await judge_registry.register(await request.body())
    return Response(VersionView.of(stored, SystemClock().now()), status_code=201 if new else 200)


@get("/judges", guards=[requires(Scope.READ)])
async def list_judges(judge_registry: RegistryService) -> JudgeList:
    """List the judges."""
    return JudgeList([JudgeSummary.of(versions) for versions in await judge_registry.judges()])


@get("/judges/{name:str}", guards=[requires(Scope.READ)])
async def get_judge(name: str, judge_registry: RegistryService) -> VersionList:
    """Read the versions of a judge: definition, trust and breaker of each."""
    now = SystemClock().now()
    return VersionList(
        name, [VersionView.of(version, now) for version in await judge_registry.versions(name)]
    )


@get("/judges/{name:str}/versions/{version:str}", guards=[requires(Scope.READ)])
async def get_judge_version(name: str, version: str, judge_reports: ReportService) -> VersionReport:
    """Read the report of a version, named by the first 6 or more characters of its hash.

    It has the history of its trust, the calibration gate, calls, cost, flip rate, length bias, its
    scores by variant, and what would change if it was promoted.
    """
    return await judge_reports.report(name, version)


@post("/judges/{name:str}/versions/{version:str}/promote", guards=[requires(Scope.ADMIN)], status_code=200)
async def promote_judge_version(name: str, version: str, judge_trust: TrustService) -> VersionView:
    """Let the scores of a version become signals. 409 with the reasons until its gate passes."""
    return VersionView.of(await judge_trust.promote(name, version), SystemClock().now())


@post("/judges/{name:str}/versions/{version:str}/demote", guards=[requires(Scope.ADMIN)], status_code=200)
async def demote_judge_version(
    name: str, version: str, data: Demotion, judge_trust: TrustService
) -> VersionView:
    """Send a version back to shadow. 409 if it is there already."""
    return VersionView.of(await judge_trust.demote(name, version, data.reason), SystemClock().now())


@get("/judges/{name:str}/diff", guards=[requires(Scope.READ)])
async def diff_judge_versions(name: str, a: str, b: str, judge_reports: ReportService) -> VersionDiff:
    """Compare versions `a` and `b` on the responses that both have scored."""
    return await judge_reports.diff(name, a, b)


@post("/experiments/{key:str}/judging", guards=[requires(Scope.ADMIN)], status_code=201)
async def create_judging_rule(key: str, data: RuleRequest, judging_rules: RuleService) -> RuleView:
    """Create a judging rule: which responses of the experiment a judge scores, and at what cost.

    422 if the judge's model serves a variant and the definition does not say that this is intended.
    With `since`, the rule judges stored responses and ends.
    """
    return await judging_rules.create(key, data)


@post("/experiments/{key:str}/judging/estimate", guards=[requires(Scope.READ)], status_code=200)
async def estimate_judging_rule(key: str, data: RuleRequest, judging_rules: RuleService) -> Estimate:
    """Estimate how many stored responses a rule with `since` would read, and what it would cost."""
    return await judging_rules.estimate(key, data)


@get("/experiments/{key:str}/judging", guards=[requires(Scope.READ)])
async def list_judging_rules(key: str, judging_rules: RuleService) -> RuleList:
    """List the judging rules with their funnels: what became of each response, and why."""
    return RuleList(await judging_rules.rules(key))


@get("/experiments/{key:str}/judging/{rule_id:int}", guards=[requires(Scope.READ)])
async def get_judging_rule(key: str, rule_id: int, judging_rules: RuleService) -> RuleView:
    """Read a judging rule with its funnel."""
    return await judging_rules.get(key, rule_id)


@patch("/experiments/{key:str}/judging/{rule_id:int}", guards=[requires(Scope.ADMIN)])
async def change_judging_rule(
    key: str, rule_id: int, data: RuleChange, judging_rules: RuleService
) -> RuleView:
    """Replace fields of a judging rule. `paused` stops it, with all that it wants."""
    return await judging_rules.change(key, rule_id, data)


@delete("/experiments/{key:str}/judging/{rule_id:int}", guards=[requires(Scope.ADMIN)], status_code=204)
async def delete_judging_rule(key: str, rule_id: int, judging_rules: RuleService) -> None:
    """Delete a judging rule and give up what it wants. Its judgements stay."""
    await judging_rules.delete(key, rule_id)


ROUTES: Final = [
    register_judge,
    list_judges,
    get_judge,
    get_judge_version,
    promote_judge_version,
    demote_judge_version,
    diff_judge_versions,
    create_judging_rule,
    estimate_judging_rule,
    list_judging_rules,
    get_judging_rule,
    change_judging_rule,
    delete_judging_rule,
]
