"""The files of the page, as they are sent to browsers."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

_TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
PAGE: Final = "page.html"

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}
"""Headers of every file: nothing from elsewhere is loaded or asked, no text becomes HTML, no other page frames it."""


class File(msgspec.Struct, frozen=True):
    """A file of the page; `etag` is another one after each change."""

    content_type: str
    body: bytes
    compressed: bytes
    etag: str


@cache
def page_files() -> Mapping[str, File]:
    """All files by name. Reads them once."""
    found = {}
    for one in (Path(__file__).parent / "static").iterdir():
        kind = _TYPES.get(one.name.rpartition(".")[2])
        if kind is not None:
            body = one.read_bytes()
            found[one.name] = File(kind, body, gzip.compress(body, mtime=0), sha256(body).hexdigest()[:16])
    return found
