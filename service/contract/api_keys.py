"""API keys and their permissions. An entry is `NAME:PERMISSIONS:KEY`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256

PERMISSIONS = ("read", "route", "admin")
"""Read scores, tokens and states; forward requests to engines; change pods."""
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
_RATE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_KEY = re.compile(r"[\x21-\x7e]{16,512}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key; only its hash is stored, so it cannot appear in a log."""

    name: str
    permissions: frozenset[str]
    digest: bytes


def parse_rates(text: str) -> tuple[tuple[str, float], ...]:
    """Reads `NAME=REQUESTS_PER_SECOND`, several separated by commas; `*` names all others. Raises ValueError."""
    rates: dict[str, float] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = (word.strip() for word in entry.partition("="))
        if not (_NAME.fullmatch(name) or name == "*") or not _RATE.fullmatch(number) or float(number) <= 0:
            raise ValueError(f"{entry!r} must be the name of a key or *, =, and requests per second")
        rates[name] = float(number)
    return tuple(rates.items())


def digest_of(key: str) -> bytes:
    """The hash for comparison; all hashes have the same length."""
    return sha256(key.encode("utf-8", "surrogateescape")).digest()


def parse_api_keys(text: str) -> tuple[ApiKey, ...]:
    """Reads entries separated by commas or lines; `#` starts a comment line. Raises ValueError without naming a key."""
    keys: list[ApiKey] = []
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for number, entry in enumerate(filter(None, (part.strip() for line in lines for part in line.split(","))), 1):
        name, _, rest = entry.partition(":")
        permissions, _, key = rest.partition(":")
        wanted = frozenset(permissions.split("+"))
        if not _NAME.fullmatch(name) or not wanted <= set(PERMISSIONS):
            raise ValueError(
                f"entry {number} must be NAME:PERMISSIONS:KEY, with {'+'.join(PERMISSIONS)} or some of them"
            )
        if not _KEY.fullmatch(key):
            raise ValueError(f"the key of {name!r} must have 16 to 512 printable ASCII characters without spaces")
        if any(name == other.name for other in keys):
            raise ValueError(f"{name!r} is the name of two keys")
        keys.append(ApiKey(name, wanted, digest_of(key)))
    return tuple(keys)
