"""Reports about judge versions: trust, calls, flips, length bias, effects, and differences."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from app.core.clock import Clock
from app.core.errors import UnprocessableInput
from app.experiments.model import Experiment
from app.judging import limits
from app.judging.breaker import Breaker
from app.judging.calibration import length_slope
from app.judging.judges.model import JudgeVersion, VersionHash
from app.judging.model import StoredVersion, signal_of
from app.judging.registry_store import ServesArm, Transition
from app.judging.reports import Difference, FlipRate, VersionEffect, by_variant, difference, flip_rate
from app.judging.store import JudgingStores
from app.judging.trust import Trust
from app.judging.trust_service import TrustService
from stats.calibration import Calibration, Recall, Verdict
from stats.interval import Interval


class VersionView(msgspec.Struct, frozen=True, kw_only=True):
    """A judge version. `signal`: the signal that its scores become while it is promoted.

    `credential` names the environment variable of the workers that holds the secret.
    """

    judge: str
    version: VersionHash
    kind: str
    axis: str
    signal: str
    definition: JudgeVersion
    serves_arm: ServesArm
    credential: str | None
    trust: Trust
    trust_since: datetime
    trust_reason: str
    breaker: Breaker
    learned: dict[str, Any]
    created_at: datetime

    @classmethod
    def of(cls, stored: StoredVersion, now: datetime) -> "VersionView":
        """Return the view of a stored version."""
        operation = getattr(stored.version, "operation", None)
        return cls(
            judge=stored.name,
            version=stored.hash,
            kind=str(stored.version.__struct_config__.tag),
            axis=stored.version.axis,
            signal=signal_of(stored.name),
            definition=stored.version,
            serves_arm=stored.serves_arm,
            credential=None if operation is None else operation.credential,
            trust=stored.trust,
            trust_since=stored.trust_since,
            trust_reason=stored.trust_reason,
            breaker=stored.breaker.at(now),
            learned=stored.learned,
            created_at=stored.created_at,
        )


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Judgements of a version and their calls. Times are those of answered calls, in seconds."""

    judged: int
    unscored: int
    wanted: int
    calls: int
    unpriced: int
    cost_usd: float
    median_s: float | None
    p95_s: float | None


class LengthBias(msgspec.Struct, frozen=True):
    """Slope of judge minus human on thousands of characters, with its 95 % interval."""

    slope: float
    interval: Interval


class GateView(msgspec.Struct, frozen=True, kw_only=True):
    """A decision of the calibration gate; shares of the `matrix` without a human label are null."""

    verdict: Verdict
    reasons: tuple[str, ...]
    recalls: tuple[Recall, ...]
    matrix: tuple[tuple[float | None, ...], ...]
    agreement: float | None
    constant: float | None
    kappa: float | None
    n_labelled: int
    more_labels: int | None

    @classmethod
    def of(cls, decision: Calibration) -> "GateView":
        """Return the view of a decision."""
        return msgspec.json.decode(msgspec.json.encode(decision), type=cls)


class VersionReport(msgspec.Struct, frozen=True, kw_only=True):
    """A version with its history, its calls, and what its scores say.

    `would_change` compares it with the promoted version on the same responses: what would change if
    it was promoted instead.
    """

    version: VersionView
    history: list[Transition]
    usage: Usage
    flip_rate: FlipRate
    length_bias: LengthBias | None
    calibration: GateView
    effects: list[VersionEffect]
    would_change: list[Difference]


class VersionDiff(msgspec.Struct, frozen=True, kw_only=True):
    """Two versions on the same stored responses. Costs are those of one judgement on average."""

    judge: str
    a: VersionHash
    b: VersionHash
    compared: int
    flips: int
    cost_usd_a: float | None
    cost_usd_b: float | None
    experiments: list[Difference]


class ReportService:
    """Computes reports from stored judgements."""

    def __init__(self, stores: JudgingStores, trust: TrustService, clock: Clock) -> None:
        self._stores = stores
        self._trust = trust
        self._clock = clock

    async def report(self, name: str, prefix: str | None) -> VersionReport:
        """Return the report of a version. Raises NotFound."""
        registry, judgements = self._stores.registry, self._stores.judgements
        version = await registry.version(name, prefix)
        scores = await judgements.scores_of_version(version.hash, limits.DIFF_PAIRS_MAX)
        matched = await self._trust.pairs(version)
        slope = length_slope(matched) if matched else None
        usage = await judgements.usage(version.hash)
        others = [other for other in await registry.versions(name) if other.trust is Trust.PROMOTED]
        promoted = [other for other in others if other.hash != version.hash]
        return VersionReport(
            version=VersionView.of(version, self._clock.now()),
            history=await registry.history(version.hash),
            usage=Usage(**usage._asdict()),
            flip_rate=flip_rate(scores),
            length_bias=None if slope is None else LengthBias(slope.value, slope.interval(alpha=0.05)),
            calibration=GateView.of(await self._trust.calibration(version)),
            effects=await self._effects(version),
            would_change=await self._differences(promoted[0], version) if promoted else [],
        )

    async def diff(self, name: str, a: str, b: str) -> VersionDiff:
        """Compare two versions. Raises NotFound; UnprocessableInput if they share no response."""
        first = await self._stores.registry.version(name, a)
        second = await self._stores.registry.version(name, b)
        differences = await self._differences(first, second)
        compared = sum(each.compared for each in differences)
        if not compared:
            raise UnprocessableInput(
                f"{first.hash[:12]} and {second.hash[:12]} have scored no response in common: "
                f"judge the stored responses by both first, with `wald judge run`"
            )
        return VersionDiff(
            judge=name,
            a=first.hash,
            b=second.hash,
            compared=compared,
            flips=sum(each.flips for each in differences),
            cost_usd_a=await self._stores.judgements.mean_cost(first.hash),
            cost_usd_b=await self._stores.judgements.mean_cost(second.hash),
            experiments=differences,
        )

    async def _effects(self, version: StoredVersion) -> list[VersionEffect]:
        effects = []
        for experiment in await self._experiments([version]):
            scores = await self._stores.judgements.scores(experiment.id, version.hash)
            variants, control = _variants(experiment)
            effects.append(
                VersionEffect(experiment=experiment.key, variants=by_variant(scores, variants, control))
            )
        return effects

    async def _differences(self, a: StoredVersion, b: StoredVersion) -> list[Difference]:
        differences = []
        for experiment in await self._experiments([a, b]):
            variants, control = _variants(experiment)
            each = difference(
                await self._stores.judgements.scores(experiment.id, a.hash),
                await self._stores.judgements.scores(experiment.id, b.hash),
                experiment=experiment.key,
                variants=variants,
                control=control,
            )
            if each.compared:
                differences.append(each)
        return differences

    async def _experiments(self, versions: Sequence[StoredVersion]) -> list[Experiment]:
        """Return the experiments in which all these versions have judged responses."""
        judgements = self._stores.judgements
        ids = [set(await judgements.experiments_of(version.hash)) for version in versions]
        experiments = await self._stores.rules.experiments(sorted(set.intersection(*ids)))
        return [experiments[experiment_id] for experiment_id in sorted(experiments)]


def _variants(experiment: Experiment) -> tuple[list[str], int]:
    definition = experiment.definition
    return [variant.key for variant in definition.variants], definition.control_index
