"""Files that pages load. Their addresses change with their contents, so caches may keep them for good.

plotly.min.js comes from the installed plotly wheel; nothing loads from elsewhere.
"""

import gzip
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

import msgspec

from app.core.errors import NotFound

PATH: Final = "/dashboard/assets"

_MEDIA_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_SOURCES: Final = {
    **{
        name: ("app.dashboard", f"assets/{name}")
        for name in ("dashboard.css", "live.js", "login.js", "review.css", "review.js", "wald.svg")
    },
    "plotly.min.js": ("plotly", "package_data/plotly.min.js"),
}


class Asset(msgspec.Struct, frozen=True):
    """One file, plain and compressed."""

    media_type: str
    plain: bytes
    zipped: bytes


@cache
def address(name: str) -> str:
    """Return the path of a file."""
    return f"{PATH}/{_fingerprint(name)}/{name}"


@cache
def load(fingerprint: str, name: str) -> Asset:
    """Return the file at an address, compressed at its first use. Raises NotFound for any other address."""
    if name not in _SOURCES or fingerprint != _fingerprint(name):
        raise NotFound(f"no file {name!r} of this version")
    plain = _source(name).read_bytes()
    return Asset(_MEDIA_TYPES[name.rpartition(".")[2]], plain, gzip.compress(plain, 9, mtime=0))


@cache
def _fingerprint(name: str) -> str:
    return blake2b(_source(name).read_bytes(), digest_size=8).hexdigest()


def _source(name: str) -> Traversable:
    package, path = _SOURCES[name]
    return files(package).joinpath(path)
