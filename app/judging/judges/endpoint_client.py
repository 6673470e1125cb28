"""HTTP to the endpoints of judges: bounded answers, no redirects, no proxies, no metadata servers.

An endpoint is not trusted. Its answer is read up to `ANSWER_BYTES_MAX` bytes after decompression,
and the whole call ends after its time limit, however slowly bytes arrive. Model servers often are
in a private network, so private addresses are allowed. Link-local addresses are not: cloud
providers serve credentials there.
"""

import asyncio
import ssl
import zlib
from collections.abc import Iterable, Mapping
from functools import cache
from ipaddress import ip_address
from itertools import cycle
from typing import Any, Final, NamedTuple

import httpcore2
import httpx2

from app.judging.judges import limits
from app.judging.judges.model import Reason
from app.webhooks.destination import unmapped

_ZLIB: Final = {"gzip", "x-gzip", "deflate"}
_EITHER_FORMAT: Final = 47  # zlib's code for gzip or zlib by their header
_KEEPALIVE_S: Final = 30.0


@cache
def _tls() -> ssl.SSLContext:
    """Return the context of all clients: it takes a while to read the certificates."""
    return httpcore2.default_ssl_context()


class Answer(NamedTuple):
    """A whole answer. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NoAnswer(Exception):
    """Raised if there is no readable answer. `sent` says whether the call may have cost money."""

    def __init__(self, reason: Reason, detail: str, *, sent: bool = True, status: int | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.sent = sent
        self.status = status


class EndpointClient:
    """Connections of one worker to all endpoints of its judges.

    A pool looks at all its connections for each request, so several small pools take turns.
    """

    def __init__(self) -> None:
        self._pools = [
            httpcore2.AsyncConnectionPool(
                ssl_context=_tls(),
                max_connections=limits.POOL_CONNECTIONS,
                max_keepalive_connections=limits.POOL_CONNECTIONS,
                keepalive_expiry=_KEEPALIVE_S,
                network_backend=_Network(),
            )
            for _ in range(limits.POOLS)
        ]
        self._turns = cycle(self._pools)

    async def post(self, url: str, *, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
        """Send a request and return the answer, whatever its status. Raises NoAnswer."""
        sent = False
        try:
            async with (
                asyncio.timeout(timeout_s),
                next(self._turns).stream(
                    "POST", url, headers=[*headers.items(), *_HEADERS], content=body
                ) as response,
            ):
                sent = True
                names = {name.decode("latin-1").lower(): value for name, value in response.headers}
                decoded = {name: value.decode("latin-1") for name, value in names.items()}
                return Answer(response.status, decoded, await _body(response, decoded))
        except TimeoutError as error:
            raise NoAnswer(Reason.TIMEOUT, f"no answer within {timeout_s:g} s") from error
        except (httpcore2.ConnectError, httpcore2.ConnectTimeout, httpcore2.UnsupportedProtocol) as error:
            raise NoAnswer(Reason.CONNECTION, _named(error), sent=False) from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
            detail = _named(error) if not sent else f"the answer broke off: {_named(error)}"
            raise NoAnswer(Reason.CONNECTION, detail) from error

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in self._pools:
            await pool.aclose()


class ClientTransport(httpx2.AsyncBaseTransport):
    """Transport of a library's client over an `EndpointClient`. The library gets whole answers."""

    def __init__(self, client: EndpointClient, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request. Raises NoAnswer."""
        headers = {
            name: value
            for name, value in request.headers.items()
            if name not in {"accept-encoding", "accept"}
        }
        answer = await self._client.post(
            str(request.url), headers=headers, body=await request.aread(), timeout_s=self._timeout_s
        )
        return httpx2.Response(answer.status, headers=_plain(answer.headers), content=answer.body)


_HEADERS: Final = [("Accept", "application/json"), ("Accept-Encoding", "identity")]


def _plain(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers without those of an encoding that is already undone."""
    undone = {"content-encoding", "content-length", "transfer-encoding"}
    return {name: value for name, value in headers.items() if name not in undone}


async def _body(response: httpcore2.Response, headers: Mapping[str, str]) -> bytes:
    """Read an answer, decompressed, up to its bound."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.ANSWER_BYTES_MAX:
        raise _too_large(response.status)
    if encoding not in _ZLIB | {"identity", ""}:
        raise NoAnswer(
            Reason.ANSWER_UNREADABLE, f"the answer has the encoding {encoding!r}", status=response.status
        )
    inflater = zlib.decompressobj(_EITHER_FORMAT) if encoding in _ZLIB else None
    body = bytearray()
    async for chunk in response.aiter_stream():
        body += chunk if inflater is None else _inflated(inflater, chunk, response.status, len(body))
        if len(body) > limits.ANSWER_BYTES_MAX:
            raise _too_large(response.status)
    return bytes(body)


def _inflated(inflater: Any, chunk: bytes, status: int, taken: int) -> bytes:
    """Decompress a chunk, never into more memory than an answer may take."""
    try:
        data: bytes = inflater.decompress(chunk, limits.ANSWER_BYTES_MAX + 1 - taken)
    except zlib.error as error:
        raise NoAnswer(Reason.ANSWER_UNREADABLE, f"the answer cannot be decompressed: {error}") from error
    if inflater.unconsumed_tail:
        raise _too_large(status)
    return data


def _too_large(status: int) -> NoAnswer:
    detail = f"the answer is longer than {limits.ANSWER_BYTES_MAX} bytes"
    return NoAnswer(Reason.ANSWER_TOO_LARGE, detail, status=status)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[: limits.ERROR_LENGTH_MAX]


class _Network(httpcore2.AsyncNetworkBackend):
    """A network that closes connections to link-local addresses before it sends a byte."""

    def __init__(self) -> None:
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        stream = await self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        address = unmapped(ip_address(stream.get_extra_info("server_addr")[0].partition("%")[0]))
        if address.is_link_local or address.is_multicast:
            await stream.aclose()
            raise httpcore2.ConnectError(f"{host} has the link-local address {address}, which is not allowed")
        return stream

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore2.AsyncNetworkStream:
        raise httpcore2.ConnectError("unix sockets are not allowed")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)
