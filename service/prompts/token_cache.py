"""What was tokenized before, bounded in bytes, the least recently used let go."""

from __future__ import annotations

from collections import OrderedDict
from itertools import count
from sys import getsizeof
from threading import Lock
from typing import NamedTuple

_ENTRY_BYTES = 250
"""What an entry takes besides its text and its tokens: the key, the place in the order, the objects' heads."""


class Known(NamedTuple):
    """The tokens of a text, or of a stretch of it that ends at `done`, as the bytes of unsigned 32-bit integers.

    `name` stands for the text from its start to here, where stretches follow one another.
    """

    tokens: bytes
    name: int = 0
    done: int = 0


class TokenCache:
    """Tokens by text. A key is a pair: the name of a space or of what came before, and the text.

    Safe for threads: long texts are tokenized away from the event loop, short ones on it.
    """

    def __init__(self, capacity: int) -> None:
        """`capacity` in bytes; 0 keeps nothing."""
        self.capacity = capacity
        self.used = 0
        self.hits = 0
        self.misses = 0
        self._entries: OrderedDict[tuple[int, str], Known] = OrderedDict()
        self._names = count(1)
        self._lock = Lock()

    def name(self) -> int:
        """Gives a number that no other space or stretch has."""
        return next(self._names)

    def get(self, key: tuple[int, str]) -> Known | None:
        """Gives what is known, and counts it as used just then."""
        with self._lock:
            known = self._entries.get(key)
            if known is None:
                self.misses += 1
            else:
                self.hits += 1
                self._entries.move_to_end(key)
        return known

    def put(self, key: tuple[int, str], known: Known) -> None:
        """Keeps an entry, at the cost of the oldest ones; one larger than the cache is not kept."""
        size = _size(key, known)
        if size > self.capacity:
            return
        with self._lock:
            old = self._entries.pop(key, None)
            if old is not None:
                self.used -= _size(key, old)
            self._entries[key] = known
            self.used += size
            while self.used > self.capacity:
                self.used -= _size(*self._entries.popitem(last=False))

    def __len__(self) -> int:
        return len(self._entries)


def _size(key: tuple[int, str], known: Known) -> int:
    return getsizeof(key[1]) + len(known.tokens) + _ENTRY_BYTES
