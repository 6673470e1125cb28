"""Child processes that end with us and can be awaited."""

import asyncio
import ctypes
import os
import resource
import secrets
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple

NAME: Final = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
"""Name of this process, unique among all processes."""

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def raise_descriptor_limit() -> None:
    """Raise the limit of open files of this process to the most that the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit() -> int:
    """Return the number of files that this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Account(NamedTuple):
    """The account that a child runs as."""

    uid: int
    gid: int


class ChildProcess:
    """A running child in its own session, so that Ctrl-C in our terminal reaches only us.

    The kernel sends it `death_signal` when we die for any reason. The kernel watches the *thread*
    that forked, so only the main thread may start children.

    The child keeps the file descriptors `inherit` open. `output` takes its stdout and stderr.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        death_signal: signal.Signals = signal.SIGKILL,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        output: IO[bytes] | None = None,
        account: Account | None = None,
        inherit: Sequence[int] = (),
    ) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("only the main thread may start children, which end with it")
        parent = os.getpid()

        # Runs in the child after it became `account`, because that change clears the signal.
        def die_with_parent() -> None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal))
            if os.getppid() != parent:
                os._exit(1)

        self._popen = subprocess.Popen(  # noqa: S603  (commands are ours)
            [str(word) for word in command],
            cwd=folder,
            env=None if environment is None else dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            pass_fds=inherit,
            start_new_session=True,
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
            preexec_fn=die_with_parent,  # noqa: PLW1509  (calls only prctl and getppid)
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None

    async def wait(self) -> int:
        """Wait for its end; return its exit status, or minus the signal that ended it."""
        if self.running:
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()
            descriptor = os.pidfd_open(self.pid)
            loop.add_reader(descriptor, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)
        return self._popen.wait()

    async def stop(self, sent: signal.Signals, *, grace_s: float) -> int:
        """Send a signal and wait for the end; after `grace_s` seconds, send SIGKILL."""
        self.send(sent)
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)
            return await self.wait()

    def send(self, sent: signal.Signals) -> None:
        """Send a signal, unless the child has ended."""
        self._popen.send_signal(sent)
