"""Sender of requests: one connection each, to an address that was checked.

It uses no proxies, environment, redirects or unix sockets. It resolves the name once. Every address
of the name must be permitted, and the connection goes to one of these addresses.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import httpcore2
import msgspec

from app.core.clock import Clock
from app.core.errors import InvalidInput
from app.jobs.retry import retry_after_s
from app.webhooks import limits
from app.webhooks.adapters import Post
from app.webhooks.destination import Destination, NetworkPolicy
from app.webhooks.schedule import Answer

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host; raises OSError if it has none."""


class Refused(Exception):
    """Raised for a connection that the policy does not permit."""


class Sender:
    """Sender of webhooks under a policy. It keeps no connections."""

    def __init__(
        self,
        policy: NetworkPolicy,
        clock: Clock,
        *,
        timeout_s: float = limits.WEBHOOK_TIMEOUT_S,
        resolve: Resolve | None = None,
        network: httpcore2.AsyncNetworkBackend | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._timeout_s = timeout_s
        self._resolve = resolve or _resolve
        self._network = network or httpcore2.AnyIOBackend()
        self._tls = tls or httpcore2.default_ssl_context()

    async def send(self, url: str, post: Post) -> Answer:
        """Send a request, and return the receiver's answer, or an answer that says what failed.

        It never raises. Only the status counts; the rest of the answer is read up to
        `WEBHOOK_ANSWER_BYTES_MAX` and dropped.
        """
        answer: Answer | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                destination = Destination.of(url)
                url_parts = httpcore2.URL(**msgspec.structs.asdict(destination))
                async with (
                    self._pool(destination) as pool,
                    pool.stream(
                        "POST", url_parts, headers=list(post.headers.items()), content=post.body
                    ) as response,
                ):
                    answer = self._answer(response)
                    async for _ in response.aiter_stream():
                        pass
        except TimeoutError:
            return answer or Answer(None, f"no answer within {self._timeout_s:g} s")
        except InvalidInput as error:
            return Answer(None, f"not sent: the URL {error.detail}")
        except Refused as error:
            return Answer(None, f"not sent: {error}")
        except (
            httpcore2.NetworkError,
            httpcore2.ProtocolError,
            httpcore2.TimeoutException,
            OSError,
        ) as error:
            return answer or Answer(
                None, f"{type(error).__name__}: {error}"[: limits.WEBHOOK_ERROR_LENGTH_MAX]
            )
        return answer

    def _pool(self, destination: Destination) -> httpcore2.AsyncConnectionPool:
        network = _CheckedNetwork(
            self._network, self._resolve, self._policy, secure=destination.scheme == "https"
        )
        return httpcore2.AsyncConnectionPool(
            ssl_context=self._tls, network_backend=network, max_connections=1, max_keepalive_connections=0
        )

    def _answer(self, response: httpcore2.Response) -> Answer:
        asked = next((value for name, value in response.headers if name.lower() == b"retry-after"), None)
        wait_s = None if asked is None else retry_after_s(asked.decode("latin-1"), self._clock.now())
        error = None if 200 <= response.status < 300 else f"answered {response.status}"
        return Answer(response.status, error, wait_s)


class _CheckedNetwork(httpcore2.AsyncNetworkBackend):
    """A network that opens connections to permitted addresses only. Raises Refused."""

    def __init__(
        self, inner: httpcore2.AsyncNetworkBackend, resolve: Resolve, policy: NetworkPolicy, *, secure: bool
    ) -> None:
        self._inner = inner
        self._resolve = resolve
        self._policy = policy
        self._secure = secure

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        if port not in self._policy.ports:
            raise Refused(f"port {port} is not allowed")
        addresses = await self._resolve(host, port)
        for address in addresses:
            if not self._policy.permits(address, secure=self._secure):
                raise Refused(f"{host} has the address {address}, which is not allowed")
        error: Exception = OSError(f"{host} has no address")
        for address in addresses:
            try:
                stream = await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as failed:
                error = failed
            else:
                return _BoundedStream(stream, limits.WEBHOOK_ANSWER_BYTES_MAX)
        raise error

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore2.AsyncNetworkStream:
        raise Refused("unix sockets are not allowed")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class _BoundedStream(httpcore2.AsyncNetworkStream):
    """A stream that reads at most `bytes_max` bytes, headers included."""

    def __init__(self, inner: httpcore2.AsyncNetworkStream, bytes_max: int) -> None:
        self._inner = inner
        self._left = bytes_max

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        if self._left == 0:
            raise httpcore2.ReadError(f"the answer is longer than {limits.WEBHOOK_ANSWER_BYTES_MAX} bytes")
        data = await self._inner.read(min(max_bytes, self._left), timeout)
        self._left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore2.AsyncNetworkStream:
        # The protocol bounds handshakes; the new stream counts the bytes read through it.
        return _BoundedStream(await self._inner.start_tls(ssl_context, server_hostname, timeout), self._left)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


async def _resolve(host: str, port: int) -> Sequence[str]:
    try:
        entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that is empty or longer than 63 characters
        raise OSError(f"{host} is not a valid host name") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in entries))
