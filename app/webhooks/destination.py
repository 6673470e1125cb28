"""Permitted destinations: URLs that an endpoint may have, and addresses we connect to. Pure.

A server that posts to URLs of its users can be used to reach its own network (server-side request
forgery). The check of the URL gives a clear error early. The check of the address at the time of
the connection gives the protection.
"""

import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Self

import httpx2
import msgspec

from app.core.errors import InvalidInput
from app.webhooks import limits

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_NOT_PUBLIC: Final[tuple[Network, ...]] = (
    # Beyond `is_global`, whose list differs between versions of Python.
    IPv4Network("192.0.0.0/24"),  # IETF protocol assignments
    IPv4Network("192.88.99.0/24"),  # relays of 6to4
    IPv6Network("2001::/23"),  # IETF protocol assignments, Teredo among them
    IPv6Network("3fff::/20"),  # documentation
)
_HOST: Final = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f:.]{2,45}", re.IGNORECASE)
_PORTS: Final = {"https": 443, "http": 80}


class Destination(msgspec.Struct, frozen=True):
    """Parts of a URL. It is parsed once, so that the checked parts are those that we call."""

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def of(cls, url: str) -> Self:
        """Parse an absolute http or https URL. Raises InvalidInput naming the field `url`."""
        try:
            parsed = httpx2.URL(url)
        except (httpx2.InvalidURL, ValueError) as error:
            raise InvalidInput(f"is not a URL: {error}", field="url") from error
        if parsed.scheme not in _PORTS or not parsed.host:
            raise InvalidInput("must be an absolute https URL", field="url")
        if parsed.userinfo:
            raise InvalidInput("must not contain a user name or password", field="url")
        if parsed.fragment:
            raise InvalidInput("must not have a fragment", field="url")
        host = parsed.raw_host.decode("ascii")
        if not _HOST.fullmatch(host):
            raise InvalidInput(f"has no valid host: {host}", field="url")
        return cls(
            scheme=parsed.scheme,
            host=host,
            port=_PORTS[parsed.scheme] if parsed.port is None else parsed.port,
            target=parsed.raw_path.decode("ascii"),
        )


class NetworkPolicy(msgspec.Struct, frozen=True):
    """Rule of destinations: public addresses by https, `allowed` networks also by http.

    Only these `ports` are permitted.
    """

    allowed: tuple[Network, ...] = ()
    ports: frozenset[int] = frozenset({_PORTS["https"]})

    @classmethod
    def of(cls, networks: Iterable[str], ports: Iterable[int]) -> Self:
        """Return the policy of the settings. Raises ValueError for an invalid network."""
        return cls(tuple(ip_network(network) for network in networks), frozenset(ports))

    def permits(self, address: str, *, secure: bool) -> bool:
        """Return whether we may connect to an address; `secure` means by https."""
        try:
            reached = unmapped(ip_address(address))
        except ValueError:
            return False
        return any(reached in network for network in self.allowed) or (secure and is_public(reached))

    def check_url(self, url: str) -> Destination:
        """Parse a URL. Raises InvalidInput, naming the field `url`, if it is not permitted."""
        if len(url) > limits.WEBHOOK_URL_LENGTH_MAX:
            raise InvalidInput(f"must be at most {limits.WEBHOOK_URL_LENGTH_MAX} characters", field="url")
        destination = Destination.of(url)
        secure = destination.scheme == "https"
        if not secure and not self.allowed:
            raise InvalidInput("must be https: no networks are allowed for http", field="url")
        if destination.port not in self.ports:
            allowed = ", ".join(map(str, sorted(self.ports)))
            raise InvalidInput(f"port {destination.port} is not allowed; {allowed} is", field="url")
        address = literal(destination.host)
        if address is not None and not self.permits(address, secure=secure):
            raise InvalidInput(f"{destination.host} is not a public address", field="url")
        return destination


def literal(host: str) -> str | None:
    """Return the address that a host spells in any form that C libraries read; None for a name.

    `127.1`, `2130706433`, `0x7f000001`, `0177.0.0.1` and `localhost` all spell 127.0.0.1.
    """
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return "127.0.0.1"
    try:
        return str(ip_address(name))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(name))
    except OSError:
        return None


def unmapped(address: Address) -> Address:
    """Return the IPv4 address inside an IPv6 address (mapped, NAT64, 6to4), or the address."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def is_public(address: Address) -> bool:
    """Return whether an `unmapped` address is on the public internet.

    In IPv6 only global unicast is public. Loopback, link-local, unique local, site-local,
    multicast, the deprecated IPv4-compatible and the local NAT64 ranges are not.
    """
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    if any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not address.is_multicast
