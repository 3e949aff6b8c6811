"""Tokens of words, bounded in bytes: most of a text that was never seen before is made of words that were."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import TypeAlias

Tokenize: TypeAlias = Callable[[Sequence[str]], Sequence[bytes]]
"""Gives the tokens of each of several words."""

_LONGEST = 64
"""Characters of a word that is worth to be kept."""

_ENTRY_BYTES = 200
"""What a word takes besides its tokens: its text, the heads of both, and its place in a table that has just grown."""


class WordCache:
    """The words of several tokenizers, each with a space of its own. Safe for threads.

    There are two generations: what is used is in the younger one or moves to it, and when that is full the older goes.
    """

    def __init__(self, capacity: int) -> None:
        """`capacity` in bytes, of both generations; 0 keeps nothing."""
        self._capacity = capacity // 2
        self._young: defaultdict[int, dict[str, bytes]] = defaultdict(dict)
        self._old: defaultdict[int, dict[str, bytes]] = defaultdict(dict)
        self._young_bytes = self._old_bytes = 0
        self._lock = Lock()

    @property
    def used(self) -> int:
        """Bytes of what is kept."""
        return self._young_bytes + self._old_bytes

    def tokens(self, space: int, words: Sequence[str], tokenize: Tokenize) -> bytes:
        """Gives the tokens of all words in a row; asks at most once, for those of all words that are not known."""
        found = list(map(self._young[space].get, words))
        if None not in found:
            return b"".join(found)  # type: ignore[arg-type]
        absent = dict.fromkeys([word for word, tokens in zip(words, found, strict=True) if tokens is None])
        known: dict[str, bytes] = {}
        if absent:
            with self._lock:
                known = self._recall(space, absent)
        if missing := [word for word in absent if word not in known]:
            known.update(zip(missing, tokenize(missing), strict=True))
            with self._lock:
                for word in missing:
                    if len(word) <= _LONGEST:
                        self._keep(space, word, known[word])
        return b"".join([known[word] if tokens is None else tokens for word, tokens in zip(words, found, strict=True)])

    def _recall(self, space: int, words: Iterable[str]) -> dict[str, bytes]:
        """Gives what the older generation knows of words, and has the younger keep it."""
        older = self._old[space]
        known = {word: tokens for word in words if (tokens := older.get(word)) is not None}
        for word, tokens in known.items():
            self._keep(space, word, tokens)
        return known

    def _keep(self, space: int, word: str, tokens: bytes) -> None:
        size = len(tokens) + _ENTRY_BYTES
        if size > self._capacity or word in self._young[space]:
            return
        if self._young_bytes + size > self._capacity:
            self._old, self._old_bytes = self._young, self._young_bytes
            self._young, self._young_bytes = defaultdict(dict), 0
        self._young[space][word] = tokens
        self._young_bytes += size
