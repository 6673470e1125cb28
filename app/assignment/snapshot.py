"""What servers load to assign: published experiments, and the snapshot made of them. Pure and immutable."""

from collections.abc import Sequence
from functools import cached_property
from typing import Final, Literal

import msgspec

from app.access.model import KeyRing
from app.assignment import bucketing
from app.assignment.assignment_id import Signer
from app.experiments.model import Condition, Experiment, Reward, StateKind, Stopped, kind_of

Stickiness = Literal["none", "unit", "strict"]


class PublishedVariant(msgspec.Struct, frozen=True, array_like=True):
    """A variant as it is served. `payload` is JSON text."""

    key: str
    payload: bytes


class PublishedExperiment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that `/assign` and `/feedback` need of an experiment; in Valkey as a MessagePack map.

    Forward compatible: a reader ignores fields it does not know, and new fields have defaults.
    Variants are named by their position.
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

    @property
    def version(self) -> int:
        """Grows with every publication: neither of its terms ever falls."""
        return self.policy_version + self.revision


def published(experiment: Experiment, policy_version: int, weights: Sequence[int]) -> PublishedExperiment:
    """An experiment with the shares of one policy version, in the order of its variants."""
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
    )


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(PublishedExperiment)


def encode(experiment: PublishedExperiment) -> bytes:
    """The value in the hash `experiments`."""
    return _encoder.encode(experiment)


def decode(value: bytes) -> PublishedExperiment:
    """Read it back. Raises msgspec.DecodeError."""
    return _decoder.decode(value)


class PreparedExperiment:
    """A published experiment with all that does not depend on the request worked out."""

    __slots__ = ("answers", "cumulative", "propensities", "published", "running", "seeds", "serves")

    def __init__(self, published: PublishedExperiment) -> None:
        self.published = published
        self.running = published.state == "running"
        self.serves = published.control if published.winner is None else published.winner
        """The variant given to those who are not drawn for."""
        self.answers: dict[object, tuple[bytes, bytes]] = {}
        """Answers already written out, by decision; bounded by variants times reasons."""
        self.cumulative = bucketing.cumulative(published.weights)
        self.propensities = tuple(weight / bucketing.WHOLE for weight in published.weights)
        self.seeds = tuple(
            bucketing.variant_seed(published.salt, variant.key) for variant in published.variants
        )


class Snapshot:
    """Experiments and keys as of one moment. A change makes a new one that shares what did not change."""

    def __init__(self) -> None:
        self.by_key: dict[str, PreparedExperiment] = {}
        self.by_id: dict[int, PreparedExperiment] = {}
        self.keyring: KeyRing | None = None
        self.signer: Signer | None = None

    @cached_property
    def running(self) -> tuple[PreparedExperiment, ...]:
        """Experiments that are running, in the order of their keys."""
        return tuple(self.by_key[key] for key in sorted(self.by_key) if self.by_key[key].running)

    def changed(
        self, experiments: Sequence[PreparedExperiment], keyring: KeyRing | None, signer: Signer | None
    ) -> "Snapshot":
        """This one with some experiments replaced or added, and other keys."""
        new = Snapshot()
        new.by_key = self.by_key | {one.published.key: one for one in experiments}
        new.by_id = self.by_id | {one.published.id: one for one in experiments}
        new.keyring, new.signer = keyring, signer
        return new
