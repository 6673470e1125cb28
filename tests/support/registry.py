"""Publishes experiments and keys for servers, as the worker does, but without PostgreSQL."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from app.access.model import AccessSnapshot, ApiKey, KeyKind, Scope, SigningKey, digest
from app.allocation.contextual import materialised
from app.assignment import bucketing, snapshot
from app.assignment.snapshot import PublishedExperiment, published
from app.core.valkey import CHANGES_CHANNEL, create_client, registry_key
from app.experiments.model import Definition, Experiment, Running, State, Variant
from app.experiments.policies.contextual import ContextualPolicy
from bandits.linear import LinearTotals

API_KEY = "a key of the tests"
READ_KEY = "a key that may not assign"
SIGNING_KEY = SigningKey(1, b"sixteen bytes 01", 0)
START = datetime(2026, 1, 1, tzinfo=UTC)
RUNNING = Running(START)

ACCESS = AccessSnapshot(
    revision=1,
    api_keys=(
        ApiKey(1, KeyKind.ADMIN, digest(API_KEY), frozenset(Scope)),
        ApiKey(2, KeyKind.SERVER, digest(READ_KEY), frozenset({Scope.READ})),
    ),
    signing_keys=(SIGNING_KEY,),
)


def experiment(
    key: str = "exp",
    *,
    id: int = 1,  # noqa: A002 - the field's name
    shares: Sequence[float] = (0.5, 0.5),
    state: State = RUNNING,
    revision: int = 1,
    policy_version: int = 1,
    learned: Sequence[LinearTotals] = (),
    **definition: Any,
) -> PublishedExperiment:
    """A published experiment with variants v0 (the control), v1, …; `learned` of a contextual policy."""
    variants = tuple(
        Variant(f"v{index}", control=index == 0, payload={"prompt": f"p{index}"})
        for index in range(len(shares))
    )
    stored = Experiment(
        id=id,
        definition=Definition(key=key, variants=variants, **definition),
        state=state,
        salt=b"salt of a test",
        epoch=1,
        revision=revision,
        created_at=START,
        updated_at=START,
    )
    policy = stored.definition.policy
    contextual = materialised(policy, learned) if isinstance(policy, ContextualPolicy) else None
    return published(stored, policy_version, bucketing.parts(shares), contextual)


async def publish(
    valkey_url: str, *experiments: PublishedExperiment, access: AccessSnapshot | None = ACCESS
) -> None:
    """Put them where servers look, and tell the servers."""
    async with create_client(valkey_url) as valkey, valkey.pipeline() as pipeline:
        for one in experiments:
            pipeline.hset(registry_key("experiments"), one.key, snapshot.encode(one))
            pipeline.hset(registry_key("versions"), one.key, one.version)
        if access is not None:
            body = msgspec.msgpack.encode(access)
            pipeline.hset(registry_key("access"), mapping={"revision": access.revision, "body": body})
        pipeline.set(registry_key("whole"), 1)
        pipeline.incr(registry_key("revision"))
        pipeline.publish(CHANGES_CHANNEL, experiments[0].key if experiments else "@access")
        await pipeline.execute()
