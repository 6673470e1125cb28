"""Rate limit per caller in bounded memory. Pure.

It slows down clients that guess API keys. It never refuses a valid key: the code checks the key
first, and asks here only if it is wrong.
"""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from typing import Any

from app.access import limits

_NETWORK_BITS = 64
"""Prefix length that identifies a caller: one subscriber usually holds a whole /64 network."""


class Throttle:
    """A token bucket per caller (GCRA): `burst` at once, then `per_s` a second.

    Each caller is one number, the time at which its bucket is full again. Above `callers_max`, the
    throttle forgets the caller that it saw longest ago.
    """

    def __init__(self, *, burst: int, per_s: float, callers_max: int = limits.CALLERS_MAX) -> None:
        self._interval_s = 1 / per_s
        self._tolerance_s = (burst - 1) * self._interval_s
        self._callers_max = callers_max
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of callers in memory."""
        return len(self._full_at)

    def wait_s(self, caller: str, now_s: float) -> float:
        """Return the seconds until the caller may try again. `now_s` is monotonic."""
        full_at = self._full_at.get(caller)
        return 0.0 if full_at is None else max(0.0, full_at - now_s - self._tolerance_s)

    def charge(self, caller: str, now_s: float) -> float:
        """Count one attempt unless it is refused, and return `wait_s` from before it."""
        wait_s = self.wait_s(caller, now_s)
        if wait_s == 0.0:
            self._full_at[caller] = max(self._full_at.get(caller, now_s), now_s) + self._interval_s
            self._full_at.move_to_end(caller)
            if len(self._full_at) > self._callers_max:
                self._full_at.popitem(last=False)
        return wait_s


def caller_of(client: tuple[Any, ...] | None) -> str:
    """Return the caller of an ASGI scope: its IPv4 address, or its IPv6 /64 network."""
    host = str(client[0]) if client else ""
    try:
        address = ip_address(host)
    except ValueError:
        return host[:64]
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{int(address) >> _NETWORK_BITS:x}/64"
