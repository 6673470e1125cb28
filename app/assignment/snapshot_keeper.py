"""Loops that keep a server's snapshot current: they listen for changes, poll, and load.

Valkey comes first. While it is away, or was emptied and is not refilled yet, PostgreSQL takes its
place. A server that starts while neither answers reads the snapshot file of an earlier process.
"""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from time import monotonic
from typing import Final, Literal

import structlog

from app.access.model import AccessSnapshot, KeyRing
from app.access.store import ANNOUNCEMENT, load, load_revision
from app.assignment import limits
from app.assignment.published_store import PublishedStore
from app.assignment.snapshot import PreparedExperiment, Snapshot
from app.assignment.snapshot_file import SnapshotFile
from app.assignment.snapshot_holder import SnapshotHolder
from app.assignment.store import KILLED_ANNOUNCEMENT, REFILLED_ANNOUNCEMENT, RegistryState, RegistryStore
from app.core.clock import Clock
from app.core.limits import RECONNECT_S_MAX
from app.core.outages import VALKEY_ERRORS
from app.core.valkey import CHANGES_CHANNEL, create_client

_LOG: Final = structlog.get_logger(__name__)
_NO_EXPERIMENTS: Final = frozenset({ANNOUNCEMENT, KILLED_ANNOUNCEMENT, REFILLED_ANNOUNCEMENT})
_EMPTIED: Final = "Valkey was emptied; waiting for the worker to refill it"
_NOT_ASKED: Final = "not asked"


class SnapshotKeeper(SnapshotHolder):
    """Loader of the snapshot. While no engine answers, the last snapshot stays.

    `source` names where the snapshot was last loaded from.
    """

    def __init__(
        self,
        valkey_url: str,
        clock: Clock,
        *,
        database: PublishedStore | None = None,
        file: SnapshotFile | None = None,
    ) -> None:
        super().__init__(clock)
        self.source: Literal["nothing", "file", "postgres", "valkey"] = "nothing"
        self._valkey = create_client(valkey_url, socket_timeout=limits.SNAPSHOT_POLL_S)
        self._listener = create_client(valkey_url, socket_timeout=None)
        self._store = RegistryStore(self._valkey)
        self._database = database
        self._file = file
        self._valkey_error: str | None = "nothing loaded yet"
        self._database_error: str | None = _NOT_ASKED
        self._revision: int | None = None  # revision of the last comparison of all versions
        self._mark: bytes | None = None
        self._compare_at = 0.0  # earliest next comparison, unless a caller waits: it takes time
        self._compare = True
        self._announced: set[str] = set()
        self._caller_waits = False
        self._fingerprint: object = None  # state of PostgreSQL at the last load
        self._all_known = False
        self._refreshed_at = monotonic()
        self._wanted = asyncio.Event()
        self._database_wanted = asyncio.Event()
        self._next = asyncio.get_running_loop().create_future()
        self._waiting_for_database: list[asyncio.Future[None]] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def error(self) -> str | None:
        """Reason why the snapshot is not current; None while Valkey or PostgreSQL keeps it so."""
        return None if self._database_error is None else self._valkey_error

    @property
    def loaded(self) -> bool:
        """Whether this server has once known all experiments, and can sign."""
        return self._all_known and self.snapshot.signer is not None and self.keyring is not None

    @property
    def age_s(self) -> float:
        """Seconds since the snapshot was last known to be current."""
        return monotonic() - self._refreshed_at

    async def start(self) -> None:
        """Try to load everything once, then start the loops."""
        await self._refresh()
        if self._valkey_error is not None:
            await self._refresh_from_database()
        if not self.loaded:
            self._load_file()
        self._tasks = [
            asyncio.create_task(self._keep(), name="snapshot"),
            asyncio.create_task(self._listen(), name="snapshot-listener"),
            asyncio.create_task(self._keep_by_database(), name="snapshot-database"),
        ]

    async def stop(self) -> None:
        """Stop the loops. The snapshot stays."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for waiting in (self._next, *self._waiting_for_database):
            _resolve(waiting)
        await self._valkey.aclose()
        await self._listener.aclose()

    async def refresh_soon(self) -> bool:
        """Wait for a refresh that begins after this call, and return whether it ended in time.

        All callers share it. Waits at most `REFRESH_WAIT_S`, and not at all while refreshes fail.
        """
        if self.error is not None:
            return False
        self._compare = True
        return await self._refreshed()

    async def load_access(self) -> bool:
        """Wait until the keys published now are loaded, and return whether they are.

        All callers share one load. Loads begin at most every `REFRESH_SPACING_S` and read the keys
        only if they have changed. Waits at most `REFRESH_WAIT_S`, and not at all while loads fail.
        """
        if self.error is not None:
            return False
        self._announced.add(ANNOUNCEMENT)
        return await self._refreshed() and self.error is None

    async def _refreshed(self) -> bool:
        self._caller_waits = True
        self._wanted.set()
        try:
            async with asyncio.timeout(limits.REFRESH_WAIT_S):
                await asyncio.shield(self._next)
        except TimeoutError:
            return False
        return True

    def refresh_from_database_soon(self) -> None:
        """Load from PostgreSQL without a pause, if it is in use now."""
        self._database_wanted.set()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(limits.REFRESH_SPACING_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(limits.SNAPSHOT_POLL_S):
                    await self._wanted.wait()
            self._wanted.clear()
            await self._refresh()

    async def _keep_by_database(self) -> None:
        while self._database is not None:
            await asyncio.sleep(limits.REFRESH_SPACING_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(limits.DATABASE_POLL_S):
                    await self._database_wanted.wait()
            self._database_wanted.clear()
            if self._valkey_error is None:
                self._database_error = _NOT_ASKED
                self._resolve_waiting()
            else:
                await self._refresh_from_database()

    async def _refresh(self) -> None:
        waited_for, self._next = self._next, asyncio.get_running_loop().create_future()
        before = self._valkey_error
        try:
            async with asyncio.timeout(limits.SNAPSHOT_REFRESH_S):
                self._valkey_error = await self._load_changes()
        except Exception as error:  # noqa: BLE001 - the last snapshot keeps serving
            self._revision, self._compare = None, True
            self._valkey_error = str(error) or type(error).__name__
            if before is None:
                _LOG.warning("snapshot_refresh_failed", error=self._valkey_error)
        finally:
            self._note_completeness()
            if self._valkey_error is None or self._database is None:
                _resolve(waited_for)
            else:
                self._waiting_for_database.append(waited_for)
                if self._caller_waits or before is None:
                    self._database_wanted.set()
            self._caller_waits = False

    async def _refresh_from_database(self) -> None:
        if self._database is None:
            return
        waited_for, self._waiting_for_database = self._waiting_for_database, []
        try:
            async with asyncio.timeout(limits.DATABASE_LOAD_S):
                await self._load_from_database(self._database)
        except Exception as error:  # noqa: BLE001 - the last snapshot keeps serving
            if self._database_error is None:
                _LOG.warning("snapshot_not_loaded_from_database", error=str(error) or type(error).__name__)
            self._database_error = str(error) or type(error).__name__
        finally:
            self._note_completeness()
            for waiting in waited_for:
                _resolve(waiting)

    def _resolve_waiting(self) -> None:
        waited_for, self._waiting_for_database = self._waiting_for_database, []
        for waiting in waited_for:
            _resolve(waiting)

    def _note_completeness(self) -> None:
        """Mark a snapshot that is not current as incomplete: it cannot say what does not exist."""
        if self.error is not None and self.snapshot.complete:
            self._swap(self.snapshot, [], self.keyring, complete=False)

    async def _load_changes(self) -> str | None:
        """Load what has changed in Valkey. Returns why the result is incomplete, or None."""
        announced, self._announced = self._announced, set()
        compare, self._compare = self._compare, False
        state = await self._store.state()
        if state.mark is None:
            lost = {key: kill for key, kill in self.kills.pending.items() if key not in state.kills}
            await self._store.put_back(lost)
        if state.revision is None:
            self._revision = self._mark = None
            return _EMPTIED
        keys, access_too = set(announced - _NO_EXPERIMENTS), ANNOUNCEMENT in announced
        keys |= self.kills.in_valkey.keys() ^ state.kills.keys()
        compare = compare or state.mark != self._mark
        compared = state.revision != self._revision and (compare or monotonic() >= self._compare_at)
        if compared or self.source == "file":
            keys |= self._outdated(await self._store.versions())
            access_too = compared = True
        before = self.kills.keys
        self.kills.know_valkey(state.kills, whole=state.mark is not None)
        error = await self._load(state, keys, access_too=access_too, compared=compared)
        self.apply_kills(keys | (before ^ self.kills.keys))
        return error

    async def _load(
        self, state: RegistryState, keys: Collection[str], *, access_too: bool, compared: bool
    ) -> str | None:
        if self.source == "file" and state.mark is None:
            keys = ()  # some experiments do not replace all of them
        experiments = await self._prepared(await self._store.experiments(list(keys)) if keys else [])
        access = await self._newer_access() if access_too else None
        if compared and await self._store.mark() != state.mark:
            self._compare = True
            return _EMPTIED  # while we read
        # No await from here on: a change adopted meanwhile must not be lost.
        experiments, keyring = self._not_outdated(experiments, access)
        if state.mark is not None:
            base = Snapshot() if self.source == "file" else self.snapshot
            self._swap(base, experiments, keyring, complete=True)
            self._all_known, self.source, self._refreshed_at = True, "valkey", monotonic()
            self._fingerprint, self._database_error = None, _NOT_ASKED
        else:
            self._swap(self.snapshot, experiments, keyring, complete=self.snapshot.complete)
        if compared:
            self._revision, self._compare_at = state.revision, monotonic() + limits.SNAPSHOT_POLL_S
        self._mark = state.mark
        return None if state.mark is not None else _EMPTIED

    async def _newer_access(self) -> AccessSnapshot | None:
        """Return the published keys; None if we have them already."""
        revision = await load_revision(self._valkey)
        if self.keyring is not None and revision == self.keyring.revision:
            self._adopted.outdates(ANNOUNCEMENT, revision, monotonic())
            return None
        return await load(self._valkey)

    def _outdated(self, versions: Mapping[str, int]) -> set[str]:
        """Return the keys of experiments that we have in another version, or not at all."""
        ours = {} if self.source == "file" else self.snapshot.by_key
        return {
            key
            for key, version in versions.items()
            if key not in ours or ours[key].published.version != version
        }

    async def _load_from_database(self, database: PublishedStore) -> None:
        """Load what has changed in PostgreSQL. Raises what SQLAlchemy raises."""
        async with asyncio.timeout(limits.DATABASE_ANSWER_S):
            fingerprint = await database.fingerprint()
        complete = fingerprint.missing == 0
        experiments: list[PreparedExperiment] = []
        access: AccessSnapshot | None = None
        if fingerprint != self._fingerprint:
            outdated = self._outdated(await database.versions())
            async for page in database.bodies(list(outdated)):
                experiments += await self._prepared(page)
            access = await database.access()
        if self._valkey_error is None:
            return  # Valkey is back, and newer
        if access is not None and self.keyring is not None and access.revision == self.keyring.revision:
            access = None
        experiments, keyring = self._not_outdated(experiments, access)
        base = self.snapshot
        if self.source == "file":
            base, experiments = (Snapshot(), experiments) if complete else (base, [])
        self._swap(base, experiments, keyring, complete=complete)
        self.apply_kills([experiment.published.key for experiment in experiments])
        if experiments:
            self._revision, self._compare = None, True  # Valkey is compared with all of it
        if complete:
            self._all_known, self.source = True, "postgres"
            self._refreshed_at = monotonic()
            self._fingerprint = fingerprint
        self._database_error = None if complete else f"{fingerprint.missing} experiments are not stored yet"

    def _load_file(self) -> None:
        """Begin with what an earlier process saved. The first engine that answers replaces it."""
        saved = None if self._file is None else self._file.read(self._clock.now_ms())
        if saved is None:
            return
        self.kills.made_here = dict(saved.kills) | self.kills.made_here
        newer = list(self.snapshot.by_key.values())
        experiments = [experiment for body in saved.experiments for experiment in self._read(body)]
        keyring = self.keyring or KeyRing(saved.access)
        self._swap(Snapshot(), [*experiments, *newer], keyring, complete=False)
        self.apply_kills()
        self._all_known, self.source = True, "file"
        age_s = max(0.0, (self._clock.now_ms() - saved.current_at_ms) / 1_000)
        self._refreshed_at = monotonic() - age_s
        _LOG.warning("serving_from_snapshot_file", experiments=len(experiments), age_s=round(age_s, 1))

    async def _listen(self) -> None:
        while True:
            try:
                async with self._listener.pubsub() as channel:
                    await channel.subscribe(CHANGES_CHANNEL)
                    async for message in channel.listen():
                        if message["type"] == "message":
                            self._announced.add(message["data"].decode(errors="replace"))
                            self._wanted.set()
            except VALKEY_ERRORS as error:
                _LOG.debug("changes_not_heard", error=str(error))
            await asyncio.sleep(RECONNECT_S_MAX)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
