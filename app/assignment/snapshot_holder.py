"""The newest snapshot of one server, and every way in which it is replaced."""

import asyncio
from collections.abc import Collection, Sequence
from time import monotonic
from typing import Final

import msgspec
import structlog

from app.access.model import AccessSnapshot, KeyRing
from app.access.store import ANNOUNCEMENT
from app.assignment import limits
from app.assignment.adopted import Adopted
from app.assignment.assignment_id import Signer
from app.assignment.kills import KnownKills
from app.assignment.snapshot import PreparedExperiment, PublishedExperiment, Snapshot, decode
from app.core.clock import Clock

_LOG: Final = structlog.get_logger(__name__)


class SnapshotHolder:
    """Holder of the snapshot that serves requests. A change swaps the whole snapshot."""

    def __init__(self, clock: Clock) -> None:
        self.snapshot = Snapshot()
        self.kills = KnownKills()
        self._clock = clock
        self._adopted = Adopted()
        self._swapped = asyncio.get_running_loop().create_future()

    @property
    def keyring(self) -> KeyRing | None:
        """API keys and signing keys in force; None before the first load."""
        return self.snapshot.keyring

    def adopt_access(self, access: AccessSnapshot) -> None:
        """Use keys that this process has just committed, before they are published.

        Older keys do not replace them while their publication is under way or waits for Valkey.
        """
        if self.keyring is None or access.revision <= self.keyring.revision:
            return
        self._adopted.take(ANNOUNCEMENT, access.revision)
        self._swap(self.snapshot, [], KeyRing(access), complete=self.snapshot.complete)

    def adopt_experiment(self, published: PublishedExperiment) -> None:
        """Use an experiment that this process has just committed, unless it has a newer version."""
        ours = self.snapshot.by_key.get(published.key)
        if self.keyring is None or (ours is not None and ours.published.version >= published.version):
            return
        self._adopted.take(published.key, published.version)
        prepared = PreparedExperiment(published, killed=self.kills.kills(published))
        self._swap(self.snapshot, [prepared], self.keyring, complete=self.snapshot.complete)

    async def swapped(self) -> Snapshot:
        """Wait until another snapshot replaces this one, and return the newest."""
        await asyncio.shield(self._swapped)
        return self.snapshot

    def kill(self, key: str, kill: bytes) -> bool:
        """Serve the control from now on. Returns False if the experiment is unknown."""
        if key not in self.snapshot.by_key:
            return False
        self.kills.made_here[key] = kill
        self.apply_kills([key])
        return True

    def revive(self, key: str) -> None:
        """Serve what the experiment says, after the database has ended its kill."""
        experiment = self.snapshot.by_key.get(key)
        self.kills.revive(key, None if experiment is None else experiment.published)
        self.apply_kills([key])

    def forget_kill(self, key: str) -> None:
        """Drop a kill that this process made of an experiment that does not exist."""
        self.kills.made_here.pop(key, None)
        self.apply_kills([key])

    def apply_kills(self, keys: Collection[str] | None = None) -> None:
        """Make these experiments, or all, agree with `kills`."""
        by_key = self.snapshot.by_key
        chosen = by_key.values() if keys is None else [by_key[key] for key in keys if key in by_key]
        changed = [
            PreparedExperiment(experiment.published, killed=not experiment.killed)
            for experiment in chosen
            if self.kills.kills(experiment.published) != experiment.killed
        ]
        if changed:
            self._swap(self.snapshot, changed, self.keyring, complete=self.snapshot.complete)

    def _not_outdated(
        self, experiments: Sequence[PreparedExperiment], access: AccessSnapshot | None
    ) -> tuple[list[PreparedExperiment], KeyRing | None]:
        """Drop what is older than an own change that is not published yet."""
        now_s = monotonic()
        current = [
            experiment
            for experiment in experiments
            if not self._adopted.outdates(experiment.published.key, experiment.published.version, now_s)
        ]
        if access is None or self._adopted.outdates(ANNOUNCEMENT, access.revision, now_s):
            return current, self.keyring
        return current, KeyRing(access)

    async def _prepared(self, bodies: Sequence[bytes]) -> list[PreparedExperiment]:
        experiments: list[PreparedExperiment] = []
        for number, body in enumerate(bodies, start=1):
            experiments += self._read(body)
            if number % limits.SNAPSHOT_PREPARE_MAX == 0:
                await asyncio.sleep(0)  # requests get a turn
        return experiments

    def _read(self, body: bytes) -> list[PreparedExperiment]:
        """Return the experiment, or nothing if its body is unreadable; the others still load."""
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
        """Return the signer of the key ring. The time decides which key signs."""
        signer = self.snapshot.signer
        if keyring is None or not keyring.signing_keys:
            return signer
        keys = tuple((key.id, key.secret) for key in keyring.signing_keys)
        signing = keyring.signing_key(self._clock.now_ms()).id
        if signer is not None and (signer.keys, signer.key_id) == (keys, signing):
            return signer
        return Signer(keys, signing)
