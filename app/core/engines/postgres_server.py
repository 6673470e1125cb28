"""The embedded PostgreSQL."""

import os
import pwd
import shutil
import signal
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psutil
import psycopg
import structlog
from psycopg.sql import SQL, Identifier

from app.core.engines import binaries
from app.core.engines.folder import DataFolder, make_private, open_way, sync_folder
from app.core.engines.readiness import tail, until_ready
from app.core.errors import Conflict, Unavailable
from app.core.limits import SHUTDOWN_GRACE_S
from app.core.process import Account, ChildProcess

_LOG = structlog.get_logger(__name__)
_DATABASE: Final = "wald"
_ACCOUNTS: Final = ("postgres", "nobody")

# The collation comes with PostgreSQL itself: order never depends on the C library of the machine.
_CLUSTER: Final = (
    "--username=postgres",
    "--auth=trust",  # the socket's folder lets in only its own account
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
)

_SETTINGS: Final = {
    # durability: an acknowledged transaction survives any crash
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # reached by its Unix socket only, and only by its own account
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    # sized for a machine with 2 cores that it shares with Valkey and the server
    "max_connections": "100",
    "shared_buffers": "256MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "effective_cache_size": "1GB",
    "random_page_cost": "1.1",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "max_wal_size": "2GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class PostgresServer:
    """PostgreSQL on `folder`, reached by a Unix socket. Lock the folder before `start`.

    It refuses to run as root. As root we start it as the owner of its folder, or `postgres` or
    `nobody` for a new folder.
    """

    name: Final = "postgres"

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self._data = folder.path / self.name
        self._socket_folder = folder.socket_folder(self.name)
        self.url = self._url(_DATABASE)
        self.process: ChildProcess | None = None

    async def start(self) -> None:
        """Start it and wait until it has recovered. Only the first start creates a cluster.

        Raises Unavailable if it cannot start, Conflict if another PostgreSQL runs on this folder.
        """
        if self.process is not None:
            self._folder.check_still_there(self.name)
        elif not self._data.exists():
            await self._create()
        self._clear_remains()
        make_private(self._socket_folder, _account(self._data) or Account(os.geteuid(), os.getegid()))
        settings = _SETTINGS | {"unix_socket_directories": str(self._socket_folder)}
        options = (word for name, value in settings.items() for word in ("-c", f"{name}={value}"))
        # SIGQUIT is the immediate shutdown, which also ends its children.
        self.process = self._spawn("postgres", self._data, *options, death_signal=signal.SIGQUIT)
        await until_ready(self.name, self.process, self._started, self._folder.log_path(self.name))
        await self._ensure_database()

    async def wait(self) -> int:
        """Wait for its end; return its exit status, or minus the signal that ended it."""
        if self.process is None:
            raise RuntimeError("PostgreSQL was not started by us")
        return await self.process.wait()

    async def stop(self) -> None:
        """Shut down fast: roll back open transactions and write everything."""
        if self.process is not None:
            await self.process.stop(signal.SIGINT, grace_s=SHUTDOWN_GRACE_S)

    async def answers(self) -> bool:
        """Return whether a server answers on the socket and has our database."""
        try:
            await (await psycopg.AsyncConnection.connect(self.url, connect_timeout=5)).close()
        except psycopg.OperationalError:
            return False
        return True

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={quote(str(self._socket_folder), safe='')}"

    async def _create(self) -> None:
        """Create a cluster under another name first, so that an interruption leaves nothing."""
        unfinished = self._data.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        make_private(unfinished, _account(self._data) or Account(os.geteuid(), os.getegid()))
        self.process = self._spawn("initdb", unfinished, *_CLUSTER)
        if status := await self.process.wait():
            log = self._folder.log_path(self.name)
            raise Unavailable(f"initdb ended with status {status}; {log} says:\n{tail(log)}")
        unfinished.rename(self._data)
        sync_folder(self._folder.path)

    def _spawn(
        self, program: str, data: Path, *options: str, death_signal: signal.Signals = signal.SIGKILL
    ) -> ChildProcess:
        path = binaries.postgres_programs() / program
        account = _account(data)
        try:
            if account is not None:
                for opened in open_way(data, account) + open_way(path, account):
                    _LOG.warning("folder_opened_for_postgres", folder=str(opened))
            with os.fdopen(self._folder.open_log(self.name), "wb") as log:
                return ChildProcess(
                    [path, "-D", data, *options],
                    death_signal=death_signal,
                    folder=data,
                    output=log,
                    account=account,
                    inherit=[self._folder.lock_descriptor],
                )
        except PermissionError as error:
            whom = "we" if account is None else f"user id {account.uid} (PostgreSQL refuses to run as root)"
            raise Unavailable(f"{whom} cannot run {path} on {data}: {error}") from error

    def _clear_remains(self) -> None:
        """Remove what a killed PostgreSQL left behind: its last children and its lock files.

        We hold the lock of the folder, so none of our processes runs on it. Another process may
        have the pid in those files by now, which would keep PostgreSQL from starting. So only a
        process with this working folder counts.
        """
        pid_file = self._data / "postmaster.pid"
        remains = [process for process in psutil.process_iter() if _is_postgres_in(process, self._data)]
        postmaster = _first_line(pid_file)
        if any(str(process.pid) == postmaster for process in remains):
            raise Conflict(f"{self._data} is in use by a PostgreSQL that is not ours, process {postmaster}")
        for process in remains:
            process.kill()
        psutil.wait_procs(remains, timeout=SHUTDOWN_GRACE_S)
        pid_file.unlink(missing_ok=True)
        (self._socket_folder / ".s.PGSQL.5432.lock").unlink(missing_ok=True)

    async def _started(self) -> bool:
        """Return whether the pid file says `ready`. A connection would log an error before that."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return (
            self.process is not None
            and len(lines) >= 8  # written line by line
            and lines[0] == str(self.process.pid)
            and lines[7].strip() == "ready"
        )

    async def _ensure_database(self) -> None:
        async with await psycopg.AsyncConnection.connect(
            self._url("postgres"), autocommit=True
        ) as connection:
            cursor = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [_DATABASE])
            if await cursor.fetchone() is None:
                await connection.execute(SQL("CREATE DATABASE {}").format(Identifier(_DATABASE)))


def _account(data: Path) -> Account | None:
    """Return the account to run as: the owner of `data`, if any; None if we are not root."""
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise Unavailable(f"PostgreSQL cannot run as root, and there is no user {' or '.join(_ACCOUNTS)}")


def _is_postgres_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return bool(process.name() == "postgres" and process.cwd() == str(folder))
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # ended, a zombie, or another user's
        return False


def _first_line(file: Path) -> str | None:
    try:
        return file.read_text().partition("\n")[0]
    except FileNotFoundError:
        return None
