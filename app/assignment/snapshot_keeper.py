"""The loops that keep a server's snapshot current: they listen for changes, poll, and swap the whole.

Valkey comes first. While it cannot be used, or was emptied and is not yet refilled, PostgreSQL takes its
place. A server that starts while neither answers reads the snapshot file of an earlier process.
"""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from time import monotonic
from typing import Final, Literal

import msgspec
import structlog

from app.access.model import AccessSnapshot, KeyRing
from app.access.store import ANNOUNCEMENT
from app.assignment import limits
from app.assignment.adopted import Adopted
from app.assignment.assignment_id import Signer
from app.assignment.kills import KnownKills
from app.assignment.published_store import PublishedStore
from app.assignment.snapshot import PreparedExperiment, PublishedExperiment, Snapshot, decode
from app.assignment.snapshot_file import SnapshotFile
from app.assignment.store import KILLED_ANNOUNCEMENT, REFILLED_ANNOUNCEMENT, RegistryState, RegistryStore
from app.core.clock import Clock
from app.core.limits import RECONNECT_S_MAX
from app.core.outages import VALKEY_ERRORS
from app.core.valkey import CHANGES_CHANNEL, create_client

_LOG: Final = structlog.get_logger(__name__)
_NO_EXPERIMENTS: Final = frozenset({ANNOUNCEMENT, KILLED_ANNOUNCEMENT, REFILLED_ANNOUNCEMENT})
_EMPTIED: Final = "Valkey was emptied; waiting for the worker to refill it"
_NOT_ASKED: Final = "not asked"


class SnapshotKeeper:
    """Holds the newest snapshot. Whatever goes away, the last one stays.

    `source` is where it was loaded from last.
    """

    def __init__(
        self,
        valkey_url: str,
        clock: Clock,
        *,
        database: PublishedStore | None = None,
        file: SnapshotFile | None = None,
    ) -> None:
        self.snapshot = Snapshot()
        self.kills = KnownKills()
        self.source: Literal["nothing", "file", "postgres", "valkey"] = "nothing"
        self._clock = clock
        self._valkey = create_client(valkey_url, socket_timeout=limits.SNAPSHOT_POLL_S)
        self._listener = create_client(valkey_url, socket_timeout=None)
        self._store = RegistryStore(self._valkey)
        self._database = database
        self._file = file
        self._valkey_error: str | None = "nothing loaded yet"
        self._database_error: str | None = _NOT_ASKED
        self._revision: int | None = None  # at which all versions were last compared
        self._mark: bytes | None = None
        self._compare_at = 0.0  # not before, unless somebody waits: with many experiments it takes time
        self._compare = True
        self._announced: set[str] = set()
        self._somebody_waits = False
        self._fingerprint: object = None  # of what was last loaded from PostgreSQL
        self._all_known = False
        self._adopted = Adopted()
        self._refreshed_at = monotonic()
        self._wanted = asyncio.Event()
        self._database_wanted = asyncio.Event()
        self._next = asyncio.get_running_loop().create_future()
        self._waiting_for_database: list[asyncio.Future[None]] = []
        self._swapped = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def keyring(self) -> KeyRing | None:
        """Who holds which key; None before the first was loaded."""
        return self.snapshot.keyring

    @property
    def error(self) -> str | None:
        """What keeps the snapshot from being current; None: it is, by Valkey or by PostgreSQL."""
        return None if self._database_error is None else self._valkey_error

    @property
    def loaded(self) -> bool:
        """Whether this server has known all experiments once, and can sign."""
        return self._all_known and self.snapshot.signer is not None and self.keyring is not None

    @property
    def age_s(self) -> float:
        """Seconds since the snapshot was last known to be current."""
        return monotonic() - self._refreshed_at

    async def start(self) -> None:
        """Load everything once, successfully or not, and go on from there."""
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
        """End; the snapshot stays."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for waiting in (self._next, *self._waiting_for_database):
            _resolve(waiting)
        await self._valkey.aclose()
        await self._listener.aclose()

    async def refresh_soon(self) -> bool:
        """Wait for a refresh that begins after this call; all who wait share it. Returns whether it is over.

        Waits no longer than `REFRESH_WAIT_S`, and not at all while refreshes fail.
        """
        if self.error is not None:
            return False
        self._compare = self._somebody_waits = True
        self._wanted.set()
        try:
            async with asyncio.timeout(limits.REFRESH_WAIT_S):
                await asyncio.shield(self._next)
        except TimeoutError:
            return False
        return True

    async def load_access(self) -> bool:
        """Wait until the keys were loaded that are published now; whether that was done in time.

        All who wait share one load. Loads begin at most every `REFRESH_SPACING_S`, and read the keys
        only if they have changed. Waits no longer than `REFRESH_WAIT_S`, and not at all while loads fail.
        """
        if self.error is not None:
            return False
        self._announced.add(ANNOUNCEMENT)
        self._somebody_waits = True
        self._wanted.set()
        try:
            async with asyncio.timeout(limits.REFRESH_WAIT_S):
                await asyncio.shield(self._next)
        except TimeoutError:
            return False
        return self.error is None

    def adopt_access(self, access: AccessSnapshot) -> None:
        """Take keys that this process has just committed, before they are published.

        Older keys do not replace them while their publication is on its way, or waits for Valkey.
        """
        if self.keyring is None or access.revision <= self.keyring.revision:
            return
        self._adopted.take(ANNOUNCEMENT, access.revision)
        self._swap(self.snapshot, [], KeyRing(access), complete=self.snapshot.complete)

    def adopt_experiment(self, published: PublishedExperiment) -> None:
        """Take an experiment that this process has just committed, unless a newer version is here."""
        ours = self.snapshot.by_key.get(published.key)
        if self.keyring is None or (ours is not None and ours.published.version >= published.version):
            return
        self._adopted.take(published.key, published.version)
        prepared = PreparedExperiment(published, killed=self.kills.kills(published))
        self._swap(self.snapshot, [prepared], self.keyring, complete=self.snapshot.complete)

    def refresh_from_database_soon(self) -> None:
        """Look at PostgreSQL without a pause, should it be in use now."""
        self._database_wanted.set()

    async def swapped(self) -> Snapshot:
        """Wait until the snapshot is another one."""
        await asyncio.shield(self._swapped)
        return self.snapshot

    def kill(self, key: str, kill: bytes) -> bool:
        """Serve the control from now on. Returns False, and does nothing, if the experiment is unknown."""
        if key not in self.snapshot.by_key:
            return False
        self.kills.made_here[key] = kill
        self.apply_kills([key])
        return True

    def revive(self, key: str) -> None:
        """Serve what the experiment says: the database has ended its kill."""
        experiment = self.snapshot.by_key.get(key)
        self.kills.revive(key, None if experiment is None else experiment.published)
        self.apply_kills([key])

    def forget_kill(self, key: str) -> None:
        """Take back a kill made here of an experiment that turned out not to exist."""
        self.kills.made_here.pop(key, None)
        self.apply_kills([key])

    def apply_kills(self, keys: Collection[str] | None = None) -> None:
        """Bring these experiments, or all, in line with `kills`."""
        by_key = self.snapshot.by_key
        chosen = by_key.values() if keys is None else [by_key[key] for key in keys if key in by_key]
        changed = [
            PreparedExperiment(one.published, killed=not one.killed)
            for one in chosen
            if self.kills.kills(one.published) != one.killed
        ]
        if changed:
            self._swap(self.snapshot, changed, self.keyring, complete=self.snapshot.complete)

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
        except Exception as error:  # noqa: BLE001 - whatever it is, the last snapshot goes on serving
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
                if self._somebody_waits or before is None:
                    self._database_wanted.set()
            self._somebody_waits = False

    async def _refresh_from_database(self) -> None:
        if self._database is None:
            return
        waited_for, self._waiting_for_database = self._waiting_for_database, []
        try:
            async with asyncio.timeout(limits.DATABASE_LOAD_S):
                await self._load_from_database(self._database)
        except Exception as error:  # noqa: BLE001 - the last snapshot goes on serving
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
        """A snapshot that is not current cannot say what does not exist."""
        if self.error is not None and self.snapshot.complete:
            self._swap(self.snapshot, [], self.keyring, complete=False)

    async def _load_changes(self) -> str | None:
        """Load what has changed in Valkey. Returns why that cannot be everything; None: it is."""
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
            keys, access_too, compared = keys | await self._outdated(), True, True
        before = self.kills.keys
        self.kills.know_valkey(state.kills, whole=state.mark is not None)
        error = await self._load(state, keys, access_too=access_too, compared=compared)
        self.apply_kills(keys | (before ^ self.kills.keys))
        return error

    async def _load(
        self, state: RegistryState, keys: Collection[str], *, access_too: bool, compared: bool
    ) -> str | None:
        if self.source == "file" and state.mark is None:
            keys = ()  # a part of the experiments does not replace all of them
        experiments = await self._prepared(await self._store.experiments(list(keys)) if keys else [])
        access = await self._newer_access() if access_too else None
        if compared and await self._store.mark() != state.mark:
            self._compare = True
            return _EMPTIED  # while this was read
        # Without waiting from here on: what was adopted meanwhile must not be lost.
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
        """What is published of access; None if it is what we have."""
        revision = await self._store.access_revision()
        if self.keyring is not None and revision == self.keyring.revision:
            self._adopted.outdates(ANNOUNCEMENT, revision, monotonic())
            return None
        return await self._store.access()

    def _not_outdated(
        self, experiments: Sequence[PreparedExperiment], access: AccessSnapshot | None
    ) -> tuple[list[PreparedExperiment], KeyRing | None]:
        """What was read, less what is older than a change of our own that is not published yet."""
        current = [
            one
            for one in experiments
            if not self._adopted.outdates(one.published.key, one.published.version, monotonic())
        ]
        if access is None or self._adopted.outdates(ANNOUNCEMENT, access.revision, monotonic()):
            return current, self.keyring
        return current, KeyRing(access)

    async def _outdated(self) -> set[str]:
        """Keys of experiments whose version is not the one we have. What Valkey does not know stays."""
        ours = {} if self.source == "file" else self.snapshot.by_key
        return {
            key
            for key, version in (await self._store.versions()).items()
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
            ours = {} if self.source == "file" else self.snapshot.by_key
            outdated = [
                key
                for key, version in (await database.versions()).items()
                if key not in ours or ours[key].published.version != version
            ]
            async for page in database.bodies(outdated):
                experiments += await self._prepared(page)
            access = await database.access()
        if self._valkey_error is None:
            return  # it came back meanwhile, and knows better
        if access is not None and self.keyring is not None and access.revision == self.keyring.revision:
            access = None
        experiments, keyring = self._not_outdated(experiments, access)
        base = self.snapshot
        if self.source == "file":
            base, experiments = (Snapshot(), experiments) if complete else (base, [])
        self._swap(base, experiments, keyring, complete=complete)
        self.apply_kills([one.published.key for one in experiments])
        if experiments:
            self._revision, self._compare = None, True  # Valkey is compared with all of it
        if complete:
            self._all_known, self.source = True, "postgres"
            self._refreshed_at = monotonic()
            self._fingerprint = fingerprint
        self._database_error = None if complete else f"{fingerprint.missing} experiments are not stored yet"

    def _load_file(self) -> None:
        """Begin with what an earlier process knew; whichever engine answers first replaces it."""
        saved = None if self._file is None else self._file.read(self._clock.now_ms())
        if saved is None:
            return
        self.kills.made_here = dict(saved.kills) | self.kills.made_here
        newer = list(self.snapshot.by_key.values())
        experiments = [one for body in saved.experiments for one in self._read(body)]
        keyring = self.keyring or KeyRing(saved.access)
        self._swap(Snapshot(), [*experiments, *newer], keyring, complete=False)
        self.apply_kills()
        self._all_known, self.source = True, "file"
        age_s = max(0.0, (self._clock.now_ms() - saved.current_at_ms) / 1_000)
        self._refreshed_at = monotonic() - age_s
        _LOG.warning("serving_from_snapshot_file", experiments=len(experiments), age_s=round(age_s, 1))

    async def _prepared(self, bodies: Sequence[bytes]) -> list[PreparedExperiment]:
        experiments: list[PreparedExperiment] = []
        for number, body in enumerate(bodies, start=1):
            experiments += self._read(body)
            if number % limits.SNAPSHOT_PREPARE_MAX == 0:
                await asyncio.sleep(0)  # let requests in between
        return experiments

    def _read(self, body: bytes) -> list[PreparedExperiment]:
        """The experiment; none if it cannot be read, which does not keep the others from being loaded."""
        try:
            published = decode(body)
            return [PreparedExperiment(published, killed=self.kills.kills(published))]
        except (msgspec.DecodeError, ValueError) as error:
            _LOG.exception("published_experiment_unreadable", error=str(error), value=body[:200])
            return []

    def _swap(
        self,
        base: Snapshot,
        experiments: Sequence[PreparedExperiment],
        keyring: KeyRing | None,
        *,
        complete: bool,
    ) -> None:
        signer = self._signer(keyring)
        now = self.snapshot
        same = base is now and (now.keyring, now.signer, now.complete) == (keyring, signer, complete)
        if experiments or not same:
            self.snapshot = base.changed(experiments, keyring, signer, complete=complete)
            swapped, self._swapped = self._swapped, asyncio.get_running_loop().create_future()
            swapped.set_result(None)

    def _signer(self, keyring: KeyRing | None) -> Signer | None:
        """The signer of the key ring; which of its keys signs depends on the time."""
        signer = self.snapshot.signer
        if keyring is None or not keyring.signing_keys:
            return signer
        keys = tuple((key.id, key.secret) for key in keyring.signing_keys)
        signing = keyring.signing_key(self._clock.now_ms()).id
        if signer is not None and (signer.keys, signer.key_id) == (keys, signing):
            return signer
        return Signer(keys, signing)

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
