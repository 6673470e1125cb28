"""The kill switch: the control everywhere within a second, whichever engine is away."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Literal, Protocol, TypeVar

import msgspec
import structlog

from app.allocation import limits
from app.allocation.kill_store import Kill, KillStore, decode, encode
from app.assignment.kills import KnownKills
from app.assignment.snapshot import Snapshot
from app.core.clock import Clock
from app.core.errors import Unavailable
from app.core.outages import POSTGRES_ERRORS
from app.core.text import check_reason
from app.experiments.checks import possible, unknown
from app.experiments.model import Experiment

_LOG: Final = structlog.get_logger(__name__)

T = TypeVar("T")


class Killed(msgspec.Struct, frozen=True, omit_defaults=True):
    """The result of a kill or of its end.

    `applied`: the server that answers serves accordingly from now on. `recorded`: PostgreSQL keeps
    it, so that it survives the loss of Valkey and of all servers. `servers` says who has it: `all`
    within a second, by Valkey or by PostgreSQL (left out), or only `this` one, because it could
    reach neither. What is missing is made up for as soon as an engine is back.
    """

    experiment: str
    killed: bool
    applied: bool
    recorded: bool
    servers: Literal["all", "this"] = "all"


class KillsHere(Protocol):
    """The snapshot of the server that answers."""

    kills: KnownKills
    snapshot: Snapshot

    def kill(self, key: str, kill: bytes) -> bool:
        """Serve the control from now on; False: the experiment is not known here."""
        ...

    def revive(self, key: str) -> None:
        """Serve what the experiment says."""
        ...

    def forget_kill(self, key: str) -> None:
        """Take back a kill of an experiment that does not exist."""
        ...


class KillSwitch:
    """The kill switch of one process.

    A kill takes effect in this process at once. Valkey or PostgreSQL, whichever answers, passes it
    to all other servers, and PostgreSQL stores it. `here` is the snapshot of this server; a worker
    has none.
    """

    def __init__(
        self,
        store: KillStore,
        clock: Clock,
        on_change: Callable[[int], Awaitable[object]],
        here: KillsHere | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._on_change = on_change
        self._here = here
        self._late: set[asyncio.Task[Any]] = set()

    async def kill(self, key: str, *, by: str, reason: str) -> Killed:
        """Answer the control from now on, whatever the experiment says. Twice is as good as once.

        Answers within about `KILL_RECORD_S`, whatever the engines do. Raises InvalidInput without a
        reason; NotFound; Unavailable if this server does not know the experiment and both engines
        are away.
        """
        kill = Kill(by, check_reason(reason), self._clock.now())
        known = self._here is not None and self._here.kill(possible(key), encode(kill))
        if known:
            put, recorded = await asyncio.gather(self._put(key, kill), self._record(key, kill))
        else:
            recorded = await self._record(possible(key), kill)
            put = await self._put(key, kill, if_published=not isinstance(recorded, Experiment))
        if recorded is _NO_SUCH:
            await self._undo(key)
            raise unknown(key)
        if not (known or put or recorded):
            if self._here is not None and self._here.snapshot.complete:
                raise unknown(key)
            raise Unavailable("neither Valkey nor PostgreSQL could be reached")
        if isinstance(recorded, Experiment):
            await self._announce(recorded.id, wait=put)
        return Killed(
            key,
            killed=True,
            applied=True,
            recorded=isinstance(recorded, Experiment),
            servers="all" if put or recorded else "this",
        )

    async def revive(self, key: str, *, by: str, reason: str) -> Killed:
        """Serve again as the experiment says. Twice is as good as once.

        Raises InvalidInput without a reason; NotFound; Unavailable if PostgreSQL is away: a kill
        whose end is not recorded would come back.
        """
        kill = Kill(by, check_reason(reason), self._clock.now())
        waiting = await self._waiting(possible(key))
        try:
            for unrecorded in waiting:
                await self._in_time(self._store.record(key, unrecorded))
            experiment = await self._in_time(self._store.revive(key, kill))
        except POSTGRES_ERRORS as error:
            raise Unavailable(f"PostgreSQL does not answer, the kill stands: {error!r}") from error
        if experiment is None:
            raise unknown(key)
        if self._here is not None:
            self._here.revive(key)
        taken = await self._reached(self._store.take_away(key))
        await self._announce(experiment.id, wait=taken)
        return Killed(key, killed=False, applied=True, recorded=True)

    async def record_waiting(self) -> None:
        """Keep the kills that came while PostgreSQL was away. Raises Unavailable."""
        for key, kill in (await self._store.waiting()).items():
            experiment = await self._store.record(key, kill)
            if experiment is not None:
                await self._on_change(experiment.id)
            await self._store.take_away(key)

    async def spread(self) -> None:
        """Send the kills of this process to each engine that answers, while both lack them."""
        if self._here is None:
            return
        for key, body in dict(self._here.kills.made_here).items():
            kill = decode(body)
            if kill is None:
                continue
            put, recorded = await asyncio.gather(
                self._put(key, kill, if_published=True), self._record(key, kill, fresh=False)
            )
            if recorded is _NO_SUCH:  # or revived meanwhile
                await self._undo(key)
            elif isinstance(recorded, Experiment):
                await self._announce(recorded.id, wait=put)

    async def _undo(self, key: str) -> None:
        if self._here is not None:
            self._here.forget_kill(key)
        await self._reached(self._store.take_away(key))

    async def _put(self, key: str, kill: Kill, *, if_published: bool = False) -> bool:
        """Return whether Valkey has it.

        With `if_published`, only if servers know the experiment.
        """

        async def put() -> bool:
            if if_published and not await self._store.is_published(key):
                return False
            await self._store.put(key, kill)
            return True

        try:
            return await self._in_time(put())
        except (Unavailable, TimeoutError) as error:
            _LOG.warning("kill_not_in_valkey", experiment=key, reason=str(error))
            return False

    async def _record(self, key: str, kill: Kill, *, fresh: bool = True) -> "Experiment | _NoSuch | None":
        """Record the kill and return the experiment; None: PostgreSQL is unavailable."""
        try:
            experiment = await self._in_time(self._store.record(key, kill, fresh=fresh))
        except POSTGRES_ERRORS as error:
            _LOG.warning("kill_not_recorded_yet", experiment=key, reason=repr(error))
            return None
        return _NO_SUCH if experiment is None else experiment

    async def _waiting(self, key: str) -> list[Kill]:
        """Return the experiment's kills that PostgreSQL may not know, from Valkey or this process."""
        pairs = () if self._here is None else self._here.kills.pairs
        kills = [kill for name, body in pairs if name == key and (kill := decode(body)) is not None]
        try:
            in_valkey = (await self._in_time(self._store.waiting())).get(key)
        except (Unavailable, TimeoutError):
            in_valkey = None
        if in_valkey is not None and in_valkey not in kills:
            kills.append(in_valkey)
        return sorted(kills, key=lambda kill: kill.at)

    async def _reached(self, asked: Coroutine[Any, Any, object]) -> bool:
        """Return whether Valkey applied the change; if not, the worker will."""
        try:
            await self._in_time(asked)
        except (Unavailable, TimeoutError):
            return False
        return True

    async def _in_time(self, asked: Coroutine[Any, Any, T]) -> T:
        """Return the answer of an engine. Raises TimeoutError after `KILL_RECORD_S`.

        After a timeout the call does not wait for its task to end, because a connection that hangs
        needs many seconds to cancel.
        """
        task = asyncio.ensure_future(asked)
        done, _ = await asyncio.wait({task}, timeout=limits.KILL_RECORD_S)
        if not done:
            task.cancel()
            self._leave(task)
            raise TimeoutError(f"no answer within {limits.KILL_RECORD_S:g} s")
        return task.result()

    def _leave(self, task: "asyncio.Task[Any]") -> None:
        """Let a task end by itself."""
        self._late.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()  # seen, or asyncio would complain

    async def _announce(self, experiment_id: int, *, wait: bool) -> None:
        """Publish the experiment's new state. If Valkey is away, do not wait for the failure."""

        async def announce() -> None:
            try:
                await self._on_change(experiment_id)
            except Exception as error:  # noqa: BLE001 - it is kept, and its publication is due
                _LOG.warning("publication_left_to_worker", experiment_id=experiment_id, reason=repr(error))

        task = asyncio.ensure_future(announce())
        if wait:
            await asyncio.wait({task}, timeout=limits.KILL_RECORD_S)
        if not task.done():
            self._leave(task)


class _NoSuch:
    """PostgreSQL knows no such experiment, or has ended this kill."""


_NO_SUCH: Final = _NoSuch()
