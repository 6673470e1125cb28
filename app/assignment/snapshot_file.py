"""The snapshot file, for a server that starts while neither engine answers.

Layout: 8 bytes `WALDSNAP`, the format as one byte, BLAKE2b-256 of the rest, and MessagePack
`Saved`. The file contains digests of API keys and the secrets that sign assignment ids. Only its
owner may read it. A file that others could read or write is not used.
"""

import fcntl
import os
import stat
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import msgspec
import structlog

from app.access.model import AccessSnapshot
from app.assignment import limits
from app.core.engines.folder import sync_folder
from app.core.telemetry import SNAPSHOT_FILES

_LOG: Final = structlog.get_logger(__name__)
_MAGIC: Final = b"WALDSNAP"
_FORMAT: Final = 1
_DIGEST_BYTES: Final = 32
_HEADER_BYTES: Final = len(_MAGIC) + 1 + _DIGEST_BYTES
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class Saved(msgspec.Struct, frozen=True, array_like=True):
    """Content of the file. `installation` identifies its engines; `kills` are pending kills."""

    installation: bytes
    current_at_ms: int
    access: AccessSnapshot
    kills: dict[str, bytes]
    experiments: list[bytes]


def installation_of(valkey_url: str, database_url: str) -> bytes:
    """Return a digest of the engines' addresses, without user names and passwords."""
    return blake2b(repr([_place(valkey_url), _place(database_url)]).encode(), digest_size=16).digest()


def _place(url: str) -> tuple[str, ...]:
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    chosen = (",".join(options.get(name, [])) for name in ("host", "port", "dbname", "db"))
    port = parts.netloc.rpartition("@")[2]
    return (parts.scheme.partition("+")[0], port, parts.path, *chosen)


class SnapshotFile:
    """The file `snapshot` in `folder`, for one installation. One process at a time writes it."""

    def __init__(self, folder: Path, installation: bytes) -> None:
        self.path = folder / "snapshot"
        self._folder = folder
        self._installation = installation
        self._lock: int | None = None

    def read(self, now_ms: int) -> Saved | None:
        """Return the content; None if there is no file. An invalid file is logged and ignored."""
        try:
            saved = self._checked(now_ms)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            _LOG.warning("snapshot_file_ignored", file=str(self.path), reason=str(error))
            SNAPSHOT_FILES.labels("ignored").inc()
            return None
        SNAPSHOT_FILES.labels("read").inc()
        return saved

    def _checked(self, now_ms: int) -> Saved:
        """Read and check the file. Raises OSError, ValueError or msgspec.MsgspecError."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(self.path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is not a regular file")
            if status.st_uid != os.geteuid() or status.st_mode & _OTHERS:
                raise ValueError("it belongs to another account or is open to others: it must have mode 0600")
            if status.st_size > limits.SNAPSHOT_FILE_BYTES_MAX:
                raise ValueError(f"it has more than {limits.SNAPSHOT_FILE_BYTES_MAX} bytes")
            content = file.read()
        if len(content) < _HEADER_BYTES or not content.startswith(_MAGIC):
            raise ValueError("it is not a snapshot file, or it is truncated")
        if (version := content[len(_MAGIC)]) != _FORMAT:
            raise ValueError(f"it has the format {version}; this version reads {_FORMAT}")
        body = memoryview(content)[_HEADER_BYTES:]
        if blake2b(body, digest_size=_DIGEST_BYTES).digest() != content[len(_MAGIC) + 1 : _HEADER_BYTES]:
            raise ValueError("its checksum does not match: it is truncated or changed")
        saved = msgspec.msgpack.decode(body, type=Saved)
        if saved.installation != self._installation:
            raise ValueError("it belongs to other engines")
        age_s = (now_ms - saved.current_at_ms) / 1_000
        if age_s > limits.SNAPSHOT_FILE_AGE_S_MAX:
            age_s_max = limits.SNAPSHOT_FILE_AGE_S_MAX
            raise ValueError(f"it was last current {age_s:.0f} s ago, more than {age_s_max:.0f} s")
        return saved

    def try_lock(self) -> bool:
        """Become the writer of the file, unless another process is. Raises OSError."""
        if self._lock is not None:
            return True
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._folder / "snapshot.lock", flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        return True

    def unlock(self) -> None:
        """Let another process write the file."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write(
        self, access: AccessSnapshot, kills: dict[str, bytes], experiments: list[bytes], current_at_ms: int
    ) -> None:
        """Replace the file atomically and durably. Raises OSError, and then the old file stays."""
        body = msgspec.msgpack.encode(Saved(self._installation, current_at_ms, access, kills, experiments))
        if len(body) + _HEADER_BYTES > limits.SNAPSHOT_FILE_BYTES_MAX:
            raise OSError(f"it would have {len(body)} bytes, more than {limits.SNAPSHOT_FILE_BYTES_MAX}")
        digest = blake2b(body, digest_size=_DIGEST_BYTES).digest()
        written = self._folder / "snapshot.new"
        with suppress(FileNotFoundError):
            written.unlink()
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            with os.fdopen(os.open(written, flags, 0o600), "wb") as file:
                file.write(_MAGIC + bytes([_FORMAT]) + digest)
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            written.replace(self.path)
        except OSError:
            with suppress(OSError):
                written.unlink()
            raise
        sync_folder(self._folder)
