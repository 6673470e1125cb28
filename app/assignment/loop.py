"""The loop that keeps a server's snapshot current: it listens for changes, polls, and swaps the whole."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Final

import msgspec
import structlog
from redis.exceptions import RedisError

from app.access.model import AccessSnapshot, KeyRing
from app.access.store import ANNOUNCEMENT
from app.assignment.adopted import Adopted
from app.assignment.assignment_id import Signer
from app.assignment.snapshot import PreparedExperiment, PublishedExperiment, Snapshot, decode
from app.assignment.store import KILLED_ANNOUNCEMENT, RegistryStore
from app.core import limits
from app.core.clock import Clock
from app.core.valkey import CHANGES_CHANNEL, create_client

_LOG: Final = structlog.get_logger(__name__)


class SnapshotKeeper:
    """Holds the newest snapshot. Without Valkey, or when Valkey has lost everything, the last one stays.

    `error` says what is wrong with the last refresh, if anything.
    """

    def __init__(self, valkey_url: str, clock: Clock) -> None:
        self.snapshot = Snapshot()
        self.error: str | None = "nothing loaded yet"
        self._clock = clock
        self._valkey = create_client(valkey_url, socket_timeout=limits.SNAPSHOT_POLL_S)
        self._listener = create_client(valkey_url, socket_timeout=None)
        self._store = RegistryStore(self._valkey)
        self._revision: int | None = None  # at which all versions were last compared
        self._compare_at = 0.0  # not before, unless somebody waits: with many experiments it takes time
        self._compare = True
        self._announced: set[str] = set()
        self._kills: dict[str, bytes] = {}  # that are in Valkey alone: it gets them back, should it lose them
        self._adopted = Adopted()
        self._refreshed_at = monotonic()
        self._wanted = asyncio.Event()
        self._next = asyncio.get_running_loop().create_future()
        self._swapped = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def keyring(self) -> KeyRing | None:
        """Who holds which key; None before the first was loaded."""
        return self.snapshot.keyring

    @property
    def age_s(self) -> float:
        """Seconds since the snapshot was last known to be current."""
        return monotonic() - self._refreshed_at

    async def start(self) -> None:
        """Load everything once, successfully or not, and go on from there."""
        await self._refresh()
        self._tasks = [
            asyncio.create_task(self._keep(), name="snapshot"),
            asyncio.create_task(self._listen(), name="snapshot-listener"),
        ]

    async def stop(self) -> None:
        """End; the snapshot stays."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._next.done():
            self._next.set_result(None)
        await self._valkey.aclose()
        await self._listener.aclose()

    async def refresh_soon(self) -> None:
        """Wait for a refresh that begins after this call; all who wait share it.

        Waits no longer than `REFRESH_WAIT_S`, and not at all while refreshes fail.
        """
        if self.error is not None:
            return
        self._compare = True
        self._wanted.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(limits.REFRESH_WAIT_S):
                await asyncio.shield(self._next)

    async def load_access(self) -> bool:
        """Wait until the keys were loaded that are published now; whether that was done in time.

        All who wait share one load. Loads begin at most every `REFRESH_SPACING_S`, and read the keys
        only if they have changed. Waits no longer than `REFRESH_WAIT_S`, and not at all while loads fail.
        """
        if self.error is not None:
            return False
        self._announced.add(ANNOUNCEMENT)
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
        keyring = self.snapshot.keyring
        if keyring is None or access.revision <= keyring.revision:
            return
        self._adopted.take(ANNOUNCEMENT, access.revision)
        self._swap([], KeyRing(access), self.snapshot.killed)

    def adopt_experiment(self, published: PublishedExperiment) -> None:
        """Take an experiment that this process has just committed, unless a newer version is here."""
        ours = self.snapshot.by_key.get(published.key)
        if self.snapshot.keyring is None or (
            ours is not None and ours.published.version >= published.version
        ):
            return
        self._adopted.take(published.key, published.version)
        killed = self.snapshot.killed
        self._swap(
            [PreparedExperiment(published, killed=published.key in killed)], self.snapshot.keyring, killed
        )

    async def swapped(self) -> Snapshot:
        """Wait until the snapshot is another one."""
        await asyncio.shield(self._swapped)
        return self.snapshot

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(limits.REFRESH_SPACING_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(limits.SNAPSHOT_POLL_S):
                    await self._wanted.wait()
            self._wanted.clear()
            await self._refresh()

    async def _refresh(self) -> None:
        waited_for, self._next = self._next, asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(limits.SNAPSHOT_REFRESH_S):
                await self._load_changes()
        except Exception as error:  # noqa: BLE001 - whatever it is, the last snapshot goes on serving
            self._revision, self._compare = None, True
            if self.error is None:
                _LOG.warning("snapshot_refresh_failed", error=str(error) or type(error).__name__)
            self.error = str(error) or type(error).__name__
        finally:
            waited_for.set_result(None)

    async def _load_changes(self) -> None:
        announced, self._announced = self._announced, set()
        compare, self._compare = self._compare, False
        revision, kills = await self._store.revision()
        if revision is None:
            await self._store.put_back(self._kills)
            self._revision = None
            self.error = "Valkey has no published experiments and keys; waiting for the worker"
            return
        keys, access_too = announced - {ANNOUNCEMENT, KILLED_ANNOUNCEMENT}, ANNOUNCEMENT in announced
        if revision != self._revision and (compare or monotonic() >= self._compare_at):
            keys, access_too = keys | await self._outdated(), True
            self._revision, self._compare_at = revision, monotonic() + limits.SNAPSHOT_POLL_S
        self._kills = kills
        await self._load(keys, frozenset(kills), access_too=access_too)
        self.error = None
        self._refreshed_at = monotonic()

    async def _outdated(self) -> set[str]:
        """Keys of experiments whose version is not the one we have. What Valkey does not know stays."""
        ours = self.snapshot.by_key
        return {
            key
            for key, version in (await self._store.versions()).items()
            if key not in ours or ours[key].published.version != version
        }

    async def _load(self, keys: set[str], killed: frozenset[str], *, access_too: bool) -> None:
        experiments = []
        keys = keys | (killed ^ self.snapshot.killed)
        if keys:
            for number, value in enumerate(await self._store.experiments(list(keys)), start=1):
                experiments += _prepared(value, killed)
                if number % limits.SNAPSHOT_PREPARE_MAX == 0:
                    await asyncio.sleep(0)  # let requests in between
        access = await self._newer_access() if access_too else None
        # Without waiting from here on: what was adopted meanwhile must not be lost.
        loaded = {
            one.published.key: one
            for one in experiments
            if not self._adopted.outdates(one.published.key, one.published.version)
        }
        kept = (killed ^ self.snapshot.killed) & self.snapshot.by_key.keys() - loaded.keys()
        for key in kept:  # a kill applies to them all the same
            ours = self.snapshot.by_key[key].published
            loaded[key] = PreparedExperiment(ours, killed=key in killed)
        keyring = self.snapshot.keyring
        if access is not None and not self._adopted.outdates(ANNOUNCEMENT, access.revision):
            keyring = KeyRing(access)
        self._swap(list(loaded.values()), keyring, killed)

    async def _newer_access(self) -> AccessSnapshot | None:
        """What is published of access; None if it is what we have."""
        ours = self.snapshot.keyring
        revision = await self._store.access_revision()
        if ours is not None and revision == ours.revision:
            self._adopted.outdates(ANNOUNCEMENT, revision)
            return None
        return await self._store.access()

    def _swap(
        self, experiments: Sequence[PreparedExperiment], keyring: KeyRing | None, killed: frozenset[str]
    ) -> None:
        """Put another snapshot in place, if anything is different in it."""
        signer = self._signer(keyring)
        before = self.snapshot
        same = (before.keyring, before.signer, before.killed) == (keyring, signer, killed)
        if experiments or not same:
            self.snapshot = self.snapshot.changed(experiments, keyring, signer, killed)
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
            except (RedisError, OSError) as error:
                _LOG.debug("changes_not_heard", error=str(error))
            await asyncio.sleep(limits.RECONNECT_S_MAX)


def _prepared(value: bytes, killed: frozenset[str]) -> list[PreparedExperiment]:
    """The experiment; none if it cannot be read, which does not keep the others from being loaded."""
    try:
        published = decode(value)
        return [PreparedExperiment(published, killed=published.key in killed)]
    except (msgspec.DecodeError, ValueError) as error:
        _LOG.exception("published_experiment_unreadable", error=str(error), value=value[:200])
        return []
