"""Tokens of single words, bounded in bytes: a new text consists mostly of known words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import islice
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

    A hit is one dictionary lookup without bookkeeping. When the cache is full, a quarter of each tokenizer's words is
    dropped, those that were stored first: the ones in use are soon stored again.
    """

    def __init__(self, capacity: int) -> None:
        """`capacity` is in bytes; 0 disables the cache."""
        self._capacity = capacity
        self._words: defaultdict[int, dict[str, bytes]] = defaultdict(dict)
        self._lock = Lock()
        self.size_bytes = 0

    def tokens(self, tokenizer_id: int, words: Sequence[str], tokenize: Tokenize) -> bytes:
        """Returns the concatenated tokens of all words; calls `tokenize` at most once, with the words that missed."""
        cached = self._words[tokenizer_id]
        found = list(map(cached.get, words))
        try:  # most words are known, and to look for None takes as long as to join
            return b"".join(found)  # type: ignore[arg-type]
        except TypeError:
            places = [place for place, tokens in enumerate(found) if tokens is None]
        missing = list(dict.fromkeys([words[place] for place in places]))
        known = dict(zip(missing, tokenize(missing), strict=True))
        with self._lock:
            for word, tokens in known.items():
                if len(word) <= _MAX_WORD_CHARACTERS:
                    self._store(cached, word, tokens)
        for place in places:
            found[place] = known[words[place]]
        return b"".join(found)  # type: ignore[arg-type]

    def missing(self, tokenizer_id: int, words: Sequence[str]) -> list[str]:
        """Returns the words that are not cached."""
        cached = self._words[tokenizer_id]
        return [word for word in words if word not in cached]

    def _store(self, cached: dict[str, bytes], word: str, tokens: bytes) -> None:
        size = len(tokens) + _ENTRY_BYTES
        if size > self._capacity or word in cached:
            return
        while self.size_bytes + size > self._capacity:
            self._drop_first()
        cached[word] = tokens
        self.size_bytes += size

    def _drop_first(self) -> None:
        for cached in self._words.values():
            for word in list(islice(cached, len(cached) // 4 + 1)):
                self.size_bytes -= len(cached.pop(word)) + _ENTRY_BYTES
