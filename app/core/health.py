"""Checks of `/ready`: each part, whether it works, and what is wrong with it.

Workers serve no requests. They leave a heartbeat with the state of their loops in Valkey, which
servers report.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal, cast

import msgspec
from redis.asyncio import Redis

from app.core import limits
from app.core.clock import Clock
from app.core.valkey import registry_key

HEARTBEATS: Final = registry_key("workers")
_NAMED_KINDS: Final = frozenset({"worker", "experiment", "rollout"})
"""First words of checks whose other words name a process or a user's experiment."""

_PUBLIC_DETAILS: Final = frozenset({"worker", "schema", "settings", "admin key", "signing key", "clock"})
_ADDRESS: Final = re.compile(r"""["'@]|://|\d\.\d|:\d|\bport\b|\bhost\b""")


class Check(msgspec.Struct, frozen=True):
    """Check of one part. While a `critical` check fails, the process should get no traffic."""

    name: str
    ok: bool
    critical: bool = False
    detail: str = ""


class Readiness(msgspec.Struct, frozen=True):
    """The body of `/ready`. The status is 503 if `unready`, else 200."""

    status: Literal["ready", "degraded", "unready"]
    checks: tuple[Check, ...]

    @classmethod
    def of(cls, checks: Sequence[Check]) -> "Readiness":
        """Return `unready` if a critical check fails, `degraded` if another fails."""
        failed = [check for check in checks if not check.ok]
        status: Literal["ready", "degraded", "unready"] = "ready"
        if failed:
            status = "unready" if any(check.critical for check in failed) else "degraded"
        return cls(status, tuple(checks))

    def public(self) -> "Readiness":
        """Return what callers without a key may see: one check per kind, and no addresses.

        Checks of workers, experiments and rollouts have the name `KIND NAME`. Their names and
        number are left out.
        """
        shown: dict[str, Check] = {}
        for check in self.checks:
            kind = check.name.partition(" ")[0]
            name = kind if kind in _NAMED_KINDS else check.name
            before = shown.get(name, Check(name, ok=True))
            shown[name] = Check(
                name,
                before.ok and check.ok,
                critical=before.critical or check.critical,
                detail=check.detail if _is_public(check) else before.detail,
            )
        return Readiness(self.status, tuple(shown.values()))


def _is_public(check: Check) -> bool:
    """Return whether anyone may read the detail: it is our text and quotes no address."""
    return check.name in _PUBLIC_DETAILS and _ADDRESS.search(check.detail) is None


class Heartbeat(msgspec.Struct, frozen=True):
    """Heartbeat of one worker: its time, and the errors of its loops."""

    at_ms: int
    errors: dict[str, str]


async def beat(valkey: Redis, name: str, errors: Mapping[str, str], clock: Clock) -> None:
    """Store a heartbeat of worker `name`, and delete those of workers that are gone."""
    now_ms = clock.now_ms()
    mine = msgspec.msgpack.encode(Heartbeat(now_ms, dict(errors)))
    await valkey.hset(HEARTBEATS, name, mine)
    gone = [
        other
        for other, beat in (await _heartbeats(valkey)).items()
        if _silent_s(beat, now_ms) > limits.WORKER_GONE_S
    ]
    if gone:
        await valkey.hdel(HEARTBEATS, *gone)


async def worker_checks(valkey: Redis, clock: Clock) -> list[Check]:
    """Return one check per live worker, or one failed check if there is none."""
    now_ms = clock.now_ms()
    alive = {
        name: beat
        for name, beat in (await _heartbeats(valkey)).items()
        if _silent_s(beat, now_ms) <= limits.WORKER_SILENT_S
    }
    if not alive:
        detail = f"no worker has reported for {limits.WORKER_SILENT_S:g} s: events wait in the streams"
        return [Check("worker", ok=False, detail=detail)]
    return [
        Check(
            f"worker {name}",
            ok=not beat.errors,
            detail="; ".join(f"{loop}: {error}" for loop, error in beat.errors.items()),
        )
        for name, beat in sorted(alive.items())
    ]


async def _heartbeats(valkey: Redis) -> dict[str, Heartbeat]:
    stored = cast("dict[bytes, bytes]", await valkey.hgetall(HEARTBEATS))
    return {name.decode(): msgspec.msgpack.decode(beat, type=Heartbeat) for name, beat in stored.items()}


def _silent_s(beat: Heartbeat, now_ms: int) -> float:
    """Return the age of a heartbeat.

    A heartbeat from the future counts as equally old: its process had another clock, and may have
    died since.
    """
    return abs(now_ms - beat.at_ms) / 1_000
