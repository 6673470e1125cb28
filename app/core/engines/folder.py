"""The data folder: its lock, its logs, and the sockets of its engines."""

import fcntl
import hashlib
import os
import shutil
import stat
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from app.core.errors import Conflict, Unavailable
from app.core.process import Account

_SOCKET_PATH_BYTES_MAX: Final = 107
_SOCKET_NAME_BYTES_MAX: Final = len("/postgres/.s.PGSQL.5432")
_LOG_BYTES_MAX: Final = 16 * 1024 * 1024


class Holder(NamedTuple):
    """The process that locked a folder. The start time distinguishes a later process id."""

    pid: int
    started_at: float

    @property
    def alive(self) -> bool:
        """Whether that process still runs."""
        try:
            process = psutil.Process(self.pid)
            same: bool = process.create_time() == self.started_at
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class DataFolder:
    """One folder for both engines.

    lock            locked (flock) by the process that runs the engines, and by the engines
    valkey/         append-only file
    postgres/       cluster
    valkey.log, postgres.log
    metrics/        of the running processes (`wald up`)
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._lock: int | None = None

    @property
    def lock_descriptor(self) -> int:
        """Descriptor that engines inherit, so that the folder stays locked while one lives."""
        if self._lock is None:
            raise RuntimeError(f"{self.path} is not locked by us")
        return self._lock

    def try_lock(self) -> bool:
        """Take the lock if it is free. Raises Unavailable if we cannot use the folder."""
        try:
            if not self.path.exists():
                self.path.mkdir(
                    parents=True, exist_ok=True, mode=0o711
                )  # PostgreSQL's account passes through
                sync_folder(self.path.parent)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(f"cannot keep data in {self.path}: {error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        os.ftruncate(descriptor, 0)
        me = psutil.Process()
        os.pwrite(descriptor, f"{me.pid} {me.create_time()!r}\n".encode(), 0)
        self._lock = descriptor
        return True

    def unlock(self) -> None:
        """Release the lock. It stays taken while an engine that inherited it lives."""
        for sockets in map(self.socket_folder, ("valkey", "postgres")):
            if sockets.parent != self.path:
                shutil.rmtree(sockets, ignore_errors=True)
        os.close(self.lock_descriptor)
        self._lock = None

    def holder(self) -> Holder | None:
        """Return the last holder of the lock; None if the lock file names none."""
        try:
            pid, started_at = (self.path / "lock").read_text().split()
            return Holder(int(pid), float(started_at))
        except (OSError, ValueError):
            return None

    def socket_folder(self, engine: str) -> Path:
        """Return the folder for the socket of `engine`, normally its own folder.

        A socket's path has at most 107 bytes, and libpq reads a comma as a list. If the path does
        not fit, the socket is in a private folder under /tmp. Its name derives from the data
        folder, so every process finds the same one.
        """
        length = len(os.fsencode(self.path)) + _SOCKET_NAME_BYTES_MAX
        if length <= _SOCKET_PATH_BYTES_MAX and "," not in str(self.path):
            return self.path / engine
        digest = hashlib.blake2b(os.fsencode(self.path), digest_size=10).hexdigest()
        return Path(f"/tmp/wald-{engine}-{digest}")  # noqa: S108  (checked in make_private)

    def check_still_there(self, engine: str) -> None:
        """Raise Unavailable if the data of an engine vanished: an empty one must not replace it."""
        data = self.path / engine
        if not data.exists():
            raise Unavailable(f"{data} has vanished: restore it, or stop and start again without its data")

    def open_log(self, engine: str) -> int:
        """Open the log of an engine to append to. Keeps one earlier log of bounded size."""
        log = self.log_path(engine)
        if log.exists() and log.stat().st_size > _LOG_BYTES_MAX:
            log.replace(log.with_suffix(".log.1"))
        return os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def log_path(self, engine: str) -> Path:
        """Return the log of an engine."""
        return self.path / f"{engine}.log"


def make_private(folder: Path, account: Account) -> None:
    """Ensure that `folder` exists, is a real folder, and admits only `account` (and root).

    Raises Conflict if another account owns it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in {account.uid, os.geteuid()}:
        raise Conflict(f"{folder} belongs to another user (user id {status.st_uid}): remove it")
    if status.st_uid != account.uid:
        os.chown(folder, account.uid, account.gid)
    folder.chmod(0o700)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_way(path: Path, account: Account) -> list[Path]:
    """Let `account` pass through the folders above `path`; return the folders it changed.

    The permission to pass (x) does not allow listing or reading them.
    """
    opened = []
    for folder in reversed(path.parents):
        status = folder.stat()
        if status.st_uid == account.uid:
            needed = stat.S_IXUSR
        elif status.st_gid == account.gid:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not status.st_mode & needed:
            folder.chmod(stat.S_IMODE(status.st_mode) | needed)
            opened.append(folder)
    return opened
