"""Published experiments, which servers load, and the snapshot made of them. Pure, immutable."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Literal

import msgspec
import numpy as np

from app.access.model import KeyRing
from app.assignment import bucketing
from app.assignment.assignment_id import Signer
from app.core.errors import InvalidInput
from app.experiments import targeting
from app.experiments.model import (
    Condition,
    Experiment,
    LayerRange,
    ResponsePlan,
    StateKind,
    Stopped,
    kind_of,
)
from app.experiments.plan import Segments
from app.experiments.reward import Reward
from app.experiments.segments import segment_number
from app.experiments.signals import SignalUse, signals_of_metrics, with_reward
from bandits.contextual import LinearArms, thompson, ucb
from bandits.features import ContextError, Feature, Schema

Stickiness = Literal["none", "unit", "strict"]


class PublishedVariant(msgspec.Struct, frozen=True, array_like=True):
    """A published variant. `payload` is JSON text."""

    key: str
    payload: bytes


class PublishedContextual(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A contextual policy with its posterior: `bandits.contextual.LinearArms` as bytes.

    `means` has shape (K, d); `factors` has each variant's upper triangle, row by row. Both are
    little-endian binary64, at most `POSTERIOR_BYTES_MAX` for 50 variants and 64 columns. They have
    no rows for the variants at the positions `retired`, in ascending order.
    """

    rule: Literal["thompson", "ucb"]
    features: tuple[Feature, ...]
    exploration_floor: float
    on_bad_context: Literal["refuse", "fallback"]
    width: float = 0.0  # for ucb
    means: bytes
    factors: bytes
    retired: tuple[int, ...] = ()


class PublishedSegments(msgspec.Struct, frozen=True, kw_only=True):
    """Segments of the traffic, and the weights of each segment number in parts of 2**32."""

    by: tuple[Segments, ...]
    weights: tuple[tuple[int, ...], ...]


class PublishedLayer(msgspec.Struct, frozen=True, array_like=True):
    """Range of a layer whose units take part: from `start` to before `end`, in parts of 2**32."""

    key: str
    start: int
    end: int


class PublishedExperiment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The part of an experiment that `/assign` and `/feedback` need; a MessagePack map in Valkey.

    It is forward compatible: readers ignore unknown fields, and new fields have defaults. A variant
    is identified by its position.
    """

    id: int
    key: str
    revision: int
    epoch: int
    policy_version: int
    salt: bytes
    state: StateKind
    winner: int | None = None
    variants: tuple[PublishedVariant, ...]
    control: int
    weights: tuple[int, ...]  # parts of 2**32
    unit: str
    stickiness: Stickiness
    targeting: tuple[Condition, ...] = ()
    overrides: dict[str, int] = {}  # unit -> variant
    reward: Reward
    contextual: PublishedContextual | None = None  # without this and `segmented`, `weights` apply
    segmented: PublishedSegments | None = None
    layer: PublishedLayer | None = None
    killed: bool = False  # then every unit gets the control
    metric_signals: dict[str, SignalUse] | None = (
        None  # signals that metrics read; null from an older version
    )
    responses: ResponsePlan = ResponsePlan()

    @property
    def version(self) -> int:
        """Number that grows with every publication, because neither term ever falls."""
        return self.policy_version + self.revision


def published(
    experiment: Experiment,
    policy_version: int,
    weights: Sequence[int],
    by_context: PublishedContextual | PublishedSegments | None = None,
) -> PublishedExperiment:
    """Build the published form with the weights of one policy version, in order of variants."""
    definition, state = experiment.definition, experiment.state
    positions = {variant.key: index for index, variant in enumerate(definition.variants)}
    winner = state.winner if isinstance(state, Stopped) else None
    return PublishedExperiment(
        id=experiment.id,
        key=definition.key,
        revision=experiment.revision,
        epoch=experiment.epoch,
        policy_version=policy_version,
        salt=experiment.salt,
        state=kind_of(state),
        winner=None if winner is None else positions[winner],
        variants=tuple(
            PublishedVariant(variant.key, msgspec.json.encode(variant.payload))
            for variant in definition.variants
        ),
        control=definition.control_index,
        weights=tuple(weights),
        unit=definition.unit,
        stickiness=definition.stickiness,
        targeting=definition.targeting,
        overrides={unit: positions[key] for unit, key in definition.overrides.items()},
        reward=definition.reward,
        contextual=by_context if isinstance(by_context, PublishedContextual) else None,
        segmented=by_context if isinstance(by_context, PublishedSegments) else None,
        layer=_layer(definition.layer),
        killed=experiment.killed,
        metric_signals=signals_of_metrics(definition.metrics),
        responses=definition.responses,
    )


def _layer(layer: LayerRange | None) -> PublishedLayer | None:
    if layer is None:
        return None
    return PublishedLayer(layer.key, bucketing.part(layer.start), bucketing.part(layer.end))


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(PublishedExperiment)


def encode(experiment: PublishedExperiment) -> bytes:
    """Encode a published experiment for Valkey and PostgreSQL."""
    return _encoder.encode(experiment)


def decode(value: bytes) -> PublishedExperiment:
    """Decode a published experiment. Raises msgspec.DecodeError."""
    return _decoder.decode(value)


class ContextReader:
    """A contextual policy, prepared so that a request costs little."""

    __slots__ = ("_arms", "_policy", "schema")

    def __init__(self, policy: PublishedContextual) -> None:
        self.schema = Schema(policy.features)
        self._policy = policy
        d = self.schema.d
        means = np.frombuffer(policy.means, "<f8").reshape(-1, d).astype(np.float64)
        factors = np.zeros((len(means), d, d))
        factors[:, *np.triu_indices(d)] = np.frombuffer(policy.factors, "<f8").reshape(len(means), -1)
        self._arms = LinearArms(means, factors)

    def weights(self, context: Mapping[str, Any]) -> list[int] | None:
        """Return the policy's weights in this context; None to use the weights without context.

        Raises InvalidInput, naming the feature, if the context does not fit and the policy refuses.
        """
        policy = self._policy
        try:
            x = self.schema.vector(context)
        except ContextError as error:
            if policy.on_bad_context == "fallback":
                return None
            raise InvalidInput(str(error), field=f"context.{error.feature}") from None
        if policy.rule == "thompson":
            shares = thompson(self._arms, x, exploration_floor=policy.exploration_floor)
        else:
            floor = policy.exploration_floor
            shares = ucb(self._arms, x, width=policy.width, exploration_floor=floor)
        weights = bucketing.parts_near(shares.tolist())
        for position in policy.retired:
            weights.insert(position, 0)
        return weights


class SegmentReader:
    """Look-up of the weights of a context's segment."""

    __slots__ = ("_segmented",)

    def __init__(self, segmented: PublishedSegments) -> None:
        self._segmented = segmented

    def weights(self, context: Mapping[str, Any]) -> Sequence[int]:
        """Return the weights in the segment of this context. Every context has a segment."""
        return self._segmented.weights[segment_number(self._segmented.by, context)]


class PreparedExperiment:
    """A published experiment, prepared so that a request costs little."""

    __slots__ = (
        "_signals", "answers", "cumulative", "killed", "layer_seed", "propensities", "published", "reader",
        "running", "seeds", "selects", "serves",
    )  # fmt: skip

    def __init__(self, published: PublishedExperiment, *, killed: bool | None = None) -> None:
        self.published = published
        self.killed = killed = published.killed if killed is None else killed
        """Whether the kill switch is on. A server may know this before `published` says so."""
        self.running = published.state == "running" and not killed
        self.serves = published.control if published.winner is None or killed else published.winner
        """The variant of units without a draw."""
        self.answers: dict[object, tuple[bytes, bytes]] = {}
        """Encoded answers by decision: at most variants times reasons."""
        self.cumulative = bucketing.cumulative(published.weights)
        self.propensities = tuple(weight / bucketing.WHOLE for weight in published.weights)
        self.selects = bool(published.targeting) or published.layer is not None
        """Whether some units take no part."""
        self.layer_seed = b"" if published.layer is None else bucketing.layer_seed(published.layer.key)
        by_context = published.contextual or published.segmented
        self.reader = None if by_context is None else reader_of(by_context)
        self._signals: dict[str, SignalUse] | None = None
        self.seeds = tuple(
            bucketing.variant_seed(published.salt, variant.key) for variant in published.variants
        )

    @property
    def signals(self) -> Mapping[str, SignalUse]:
        """Signals that the reward or a known metric reads."""
        if self._signals is None:
            self._signals = with_reward(self.published.reward, self.published.metric_signals or {})
        return self._signals

    def admits(self, unit: str, context: Mapping[str, Any]) -> bool:
        """Return whether the unit is in the layer's range and its context fits the targeting."""
        layer = self.published.layer
        if layer is not None:
            point = bucketing.layer_point(self.layer_seed, unit)
            if not layer.start <= point < layer.end:
                return False
        return targeting.matches(self.published.targeting, context)

    @property
    def features(self) -> tuple[Feature, ...]:
        """Features that the policy reads from a context."""
        return () if self.published.contextual is None else self.published.contextual.features


def reader_of(by_context: PublishedContextual | PublishedSegments) -> ContextReader | SegmentReader:
    """Return what decides in a context."""
    if isinstance(by_context, PublishedContextual):
        return ContextReader(by_context)
    return SegmentReader(by_context)


class Snapshot:
    """Experiments and keys at one moment. A change makes a new snapshot that shares the rest."""

    def __init__(self) -> None:
        self.by_key: dict[str, PreparedExperiment] = {}
        self.by_id: dict[int, PreparedExperiment] = {}
        self.complete = False
        """Whether every existing experiment is in this snapshot."""
        self.keyring: KeyRing | None = None
        self.signer: Signer | None = None

    @cached_property
    def running(self) -> tuple[PreparedExperiment, ...]:
        """Running experiments, in the order of their keys."""
        return tuple(self.by_key[key] for key in sorted(self.by_key) if self.by_key[key].running)

    @cached_property
    def killed(self) -> dict[str, int]:
        """Revisions of the experiments that are published as killed, by their keys."""
        return {
            key: experiment.published.revision
            for key, experiment in self.by_key.items()
            if experiment.published.killed
        }

    def changed(
        self,
        experiments: Sequence[PreparedExperiment],
        keyring: KeyRing | None,
        signer: Signer | None,
        *,
        complete: bool = True,
    ) -> "Snapshot":
        """Return a snapshot with some experiments replaced or added, and other keys."""
        new = Snapshot()
        new.by_key = self.by_key | {experiment.published.key: experiment for experiment in experiments}
        new.by_id = self.by_id | {experiment.published.id: experiment for experiment in experiments}
        new.complete = complete
        new.keyring, new.signer = keyring, signer
        return new
