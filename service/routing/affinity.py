"""Sessions: requests with one key go back to the rank that had the last of them."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from xxhash import xxh3_64_intdigest

from service.routing.reservations import RankWork

HEADER_PREFIX: Final = "header:"
_WINDOW: Final = 4096
_MAX_KEY: Final = 256
_MAX_SESSIONS: Final = 100_000


def ends_of(body: bytes) -> bytes:
    """Both ends of a body, where its short fields are: in between are messages."""
    return body if len(body) <= 2 * _WINDOW else body[:_WINDOW] + b"\n" + body[-_WINDOW:]


class SessionKeys:
    """Finds the key of a request's session, in fields of its body and in headers; the first one that is there."""

    def __init__(self, names: Sequence[str]) -> None:
        """`names` are fields, or headers after `header:`."""
        self._sources = [(name, b'"%b"' % name.encode(), _source(name)) for name in names]

    def of(self, headers: Mapping[str, str], ends: bytes) -> str | None:
        for name, quoted, source in self._sources:
            if isinstance(source, str):
                value = headers.get(source)
            elif quoted not in ends:  # faster than the expression
                continue
            else:
                found = source.search(ends)
                value = found[1].decode("utf-8", "replace") if found is not None else None
            if value:
                return f"{name}={value[:_MAX_KEY]}"
        return None


def _source(name: str) -> str | re.Pattern[bytes]:
    if name.startswith(HEADER_PREFIX):
        return name.removeprefix(HEADER_PREFIX)
    return re.compile(rb'"%b"\s*:\s*"((?:[^"\\]|\\.)+)"' % re.escape(name).encode())


def session_key(session: str) -> int:
    """A session's name in 64 bits: replicas tell each other nothing that a client wrote."""
    return xxh3_64_intdigest(session.encode())


class Affinity:
    """The rank of the last request of each session, by its key; the least recently used session is forgotten first."""

    def __init__(self, max_sessions: int = _MAX_SESSIONS) -> None:
        self._max_sessions = max_sessions
        self._ranks: OrderedDict[int, RankWork] = OrderedDict()

    def __len__(self) -> int:
        return len(self._ranks)

    def last(self, session: int) -> RankWork | None:
        return self._ranks.get(session)

    def note(self, session: int, rank: RankWork) -> None:
        self._ranks[session] = rank
        self._ranks.move_to_end(session)
        if len(self._ranks) > self._max_sessions:
            self._ranks.popitem(last=False)
