"""Background writer of a server's snapshot file."""

import asyncio
from time import monotonic
from typing import Final

import msgspec
import structlog

from app.assignment import limits, snapshot
from app.assignment.snapshot_file import SnapshotFile
from app.assignment.snapshot_keeper import SnapshotKeeper
from app.core.clock import Clock
from app.core.telemetry import DEGRADED, SNAPSHOT_FILES

_LOG: Final = structlog.get_logger(__name__)


class SnapshotSaver:
    """Writer of the snapshot file, at a bounded rate.

    It writes revoked keys and kills within a second, other changes every
    `SNAPSHOT_FILE_INTERVAL_S`. `error` gives the reason if the last attempt failed.
    """

    def __init__(self, keeper: SnapshotKeeper, file: SnapshotFile, clock: Clock) -> None:
        self.error: str | None = None
        self._keeper = keeper
        self._file = file
        self._clock = clock
        self._saved: snapshot.Snapshot | None = None
        self._saved_urgent: object = None
        self._saved_at = -limits.SNAPSHOT_FILE_REFRESH_S

    async def save_if_due(self) -> None:
        """Write the file if something changed or its time must be renewed. Raises nothing."""
        if not self._is_due():
            return
        try:
            if self._file.try_lock():
                await self._save()
        except OSError as error:
            self._file.unlock()  # the folder may be replaced before the next attempt
            if self.error is None:
                _LOG.warning("snapshot_file_not_written", file=str(self._file.path), reason=str(error))
            self.error = f"{self._file.path}: {error}"
            self._saved_at = monotonic()
            SNAPSHOT_FILES.labels("failed").inc()
            DEGRADED.labels("snapshot file").set(1)

    def _urgent(self) -> object:
        keyring = self._keeper.keyring
        return keyring and keyring.revision, self._keeper.kills.keys

    def _is_due(self) -> bool:
        keeper = self._keeper
        if not keeper.loaded:
            return False
        passed_s = monotonic() - self._saved_at
        if self.error is None and self._urgent() != self._saved_urgent:
            return True
        if keeper.source == "file":
            return False
        if keeper.error is None and passed_s >= limits.SNAPSHOT_FILE_REFRESH_S:
            return True
        return keeper.snapshot is not self._saved and passed_s >= limits.SNAPSHOT_FILE_INTERVAL_S

    async def _save(self) -> None:
        keeper = self._keeper
        saving, urgent, kills = keeper.snapshot, self._urgent(), dict(keeper.kills.pending)
        current_at_ms = self._clock.now_ms() - round(keeper.age_s * 1_000)
        assert saving.keyring is not None, "checked by `loaded`"
        experiments = []
        for number, experiment in enumerate(list(saving.by_key.values()), start=1):
            published = msgspec.structs.replace(experiment.published, killed=experiment.killed)
            experiments.append(snapshot.encode(published))
            if number % limits.SNAPSHOT_FILE_ENCODE_MAX == 0:
                await asyncio.sleep(0)  # requests get a turn
        access = saving.keyring.snapshot
        await asyncio.to_thread(self._file.write, access, kills, experiments, current_at_ms)
        if self.error is not None:
            _LOG.info("snapshot_file_written_again", file=str(self._file.path))
        self.error = None
        self._saved, self._saved_urgent, self._saved_at = saving, urgent, monotonic()
        SNAPSHOT_FILES.labels("written").inc()
        DEGRADED.labels("snapshot file").set(0)
