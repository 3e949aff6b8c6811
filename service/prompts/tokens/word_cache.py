"""Tokens of single words, bounded in bytes: a new text consists mostly of known words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import TypeAlias

Tokenize: TypeAlias = Callable[[Sequence[str]], Sequence[bytes]]
"""Returns the tokens of each of several words."""

_MAX_WORD_CHARACTERS = 64
"""Longer words are not stored: they rarely occur again."""

_ENTRY_BYTES = 200
"""Overhead of a word besides its tokens: its text, two object headers, its slot in a table that has just grown."""


class WordCache:
    """The words of several tokenizers, each with its own id. Thread-safe.

    An approximate LRU in two generations, so that a hit is one dictionary lookup without bookkeeping: used words are in
    or move to the young generation; when it is full, the old one is dropped.
    """

    def __init__(self, capacity: int) -> None:
        """`capacity` is in bytes, for both generations; 0 disables the cache."""
        self._capacity = capacity // 2
        self._young: defaultdict[int, dict[str, bytes]] = defaultdict(dict)
        self._old: defaultdict[int, dict[str, bytes]] = defaultdict(dict)
        self._young_bytes = self._old_bytes = 0
        self._lock = Lock()

    @property
    def size_bytes(self) -> int:
        return self._young_bytes + self._old_bytes

    def tokens(self, tokenizer_id: int, words: Sequence[str], tokenize: Tokenize) -> bytes:
        """Returns the concatenated tokens of all words; calls `tokenize` at most once, with the words that missed."""
        found = list(map(self._young[tokenizer_id].get, words))
        try:  # most words are known, and to look for None takes as long as to join
            return b"".join(found)  # type: ignore[arg-type]
        except TypeError:
            places = [place for place, tokens in enumerate(found) if tokens is None]
        absent = dict.fromkeys([words[place] for place in places])
        with self._lock:
            known = self._promote(tokenizer_id, absent)
        if missing := [word for word in absent if word not in known]:
            known.update(zip(missing, tokenize(missing), strict=True))
            with self._lock:
                for word in missing:
                    if len(word) <= _MAX_WORD_CHARACTERS:
                        self._store(tokenizer_id, word, known[word])
        for place in places:
            found[place] = known[words[place]]
        return b"".join(found)  # type: ignore[arg-type]

    def _promote(self, tokenizer_id: int, words: Iterable[str]) -> dict[str, bytes]:
        """Returns the words that the old generation has, and stores them in the young one."""
        old = self._old[tokenizer_id]
        known = {word: tokens for word in words if (tokens := old.get(word)) is not None}
        for word, tokens in known.items():
            self._store(tokenizer_id, word, tokens)
        return known

    def _store(self, tokenizer_id: int, word: str, tokens: bytes) -> None:
        size = len(tokens) + _ENTRY_BYTES
        if size > self._capacity or word in self._young[tokenizer_id]:
            return
        if self._young_bytes + size > self._capacity:
            self._old, self._old_bytes = self._young, self._young_bytes
            self._young, self._young_bytes = defaultdict(dict), 0
        self._young[tokenizer_id][word] = tokens
        self._young_bytes += size
