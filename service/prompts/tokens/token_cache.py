"""Tokens of texts seen before, in an LRU cache bounded in bytes. docs/prompts.md describes the structure."""

from __future__ import annotations

from itertools import count
from sys import getsizeof
from threading import Lock
from typing import NamedTuple

from service.byte_lru import ByteLru
from service.prompts.tokens.word_cache import WordCache

_ENTRY_BYTES = 350
"""Overhead of an entry besides its text and tokens: key, place in the LRU order, object headers."""

_REMAINDER_BYTES = 100

_ids = count()


class ChunkSizes(NamedTuple):
    """Positions at which texts are cut into chunks, in characters: every `first` up to `rest`, then every `rest`.

    Small chunks at the start let short texts share chunks, too.
    """

    first: int = 512
    rest: int = 4096

    def end(self, start: int) -> int:
        """Returns the end of the chunk that starts at this character."""
        return start + (self.rest if start >= self.rest else self.first)


class Remainder(NamedTuple):
    """The settled part of the trailing, incomplete chunk: its tokens cover the text up to `settled_chars`."""

    text: str
    tokens: bytes
    settled_chars: int


class CachedChunk:
    """A chunk of a text, and the tokens that it settles: those up to character `settled_chars` of the whole text.

    `id` identifies the whole prefix up to the end of this chunk; its successors are keyed by it. `next_chunk` is the
    successor that was seen last. Tokens are unsigned 32-bit integers in the machine's byte order.
    """

    __slots__ = ("id", "next_chunk", "parent_id", "remainder", "settled_chars", "stored", "text", "tokens")

    def __init__(self, parent_id: int = -1, text: str = "", tokens: bytes = b"", settled_chars: int = 0) -> None:
        self.id = next(_ids)
        self.parent_id = parent_id
        self.text = text
        self.tokens = tokens
        self.settled_chars = settled_chars
        self.stored = True
        self.next_chunk: CachedChunk | None = None
        self.remainder: Remainder | None = None


class PrefixHit(NamedTuple):
    """The cached prefix of a text: its tokens up to character `settled_chars`, in pieces.

    `chunk` is the last chunk that matched; it ends at character `chunk_end`. The first `whole_chunks` pieces belong to
    whole chunks, the next one to a remainder.
    """

    tokens: list[bytes]
    whole_chunks: int
    chunk: CachedChunk
    chunk_end: int
    settled_chars: int


class TokenCache:
    """Tokens by text. Thread-safe: long texts are tokenized off the event loop, short ones on it."""

    def __init__(self, capacity: int, chunk_sizes: ChunkSizes = ChunkSizes()) -> None:  # noqa: B008 - it is immutable
        """`capacity` is in bytes, an eighth of it for words; 0 disables the cache."""
        self.words = WordCache(capacity // 8)
        self.chunk_sizes = chunk_sizes
        self.hits = 0
        """Number of looked-up characters that were cached; `misses` counts the others."""
        self.misses = 0
        self._entries: ByteLru[tuple[int, str], CachedChunk] = ByteLru(
            capacity - capacity // 8, lambda _, chunk: _size(chunk), _on_evict
        )
        self._lock = Lock()

    @property
    def capacity(self) -> int:
        """Capacity in bytes, without the share of the words."""
        return self._entries.capacity

    @property
    def size_bytes(self) -> int:
        """Bytes in use, without the words."""
        return self._entries.size_bytes

    def get(self, parent: CachedChunk, text: str) -> bytes | None:
        """Returns the tokens of a text after `parent`; None on a miss."""
        key = (parent.id, text)
        with self._lock:
            chunk = self._entries.get(key)
            if chunk is None:
                self.misses += len(text)
                return None
            self.hits += len(text)
            self._entries.touch(key)
            return chunk.tokens

    def has(self, parent: CachedChunk, text: str) -> bool:
        """Whether the tokens of a text after `parent` are cached; counts as no use of them."""
        return self._entries.get((parent.id, text)) is not None

    def put(self, parent: CachedChunk, text: str, tokens: bytes) -> None:
        """Stores the tokens of a text after `parent`."""
        with self._lock:
            self._store(CachedChunk(parent.id, text, tokens))

    def find_prefix(self, root: CachedChunk, text: str) -> PrefixHit:
        """Returns the longest cached prefix of a text; one dictionary lookup or string comparison per chunk."""
        found: list[CachedChunk] = []
        chunk, end = root, 0
        with self._lock:
            while (next_end := self.chunk_sizes.end(end)) <= len(text):
                following = chunk.next_chunk
                if following is None or not following.stored or not text.startswith(following.text, end):
                    following = self._entries.get((chunk.id, text[end:next_end]))
                    if following is None:
                        break
                    chunk.next_chunk = following
                chunk = following
                end = next_end
                found.append(chunk)
            tokens, settled = [chunk.tokens for chunk in found], chunk.settled_chars
            if (remainder := chunk.remainder) is not None and text.startswith(remainder.text, end):
                tokens.append(remainder.tokens)
                settled = remainder.settled_chars
            # The first chunk is touched last, hence evicted last: its successors are unreachable without it.
            for chunk_found in reversed(found):
                self._entries.touch((chunk_found.parent_id, chunk_found.text))
            self.hits += settled
        return PrefixHit(tokens, len(found), chunk, end, settled)

    def append(self, parent: CachedChunk, text: str, tokens: bytes, settled_chars: int) -> CachedChunk:
        """Stores the chunk that follows `parent`, and returns it."""
        chunk = CachedChunk(parent.id, text, tokens, settled_chars)
        with self._lock:
            self._store(chunk)
        return chunk

    def set_remainder(self, chunk: CachedChunk, text: str, tokens: bytes, settled_chars: int) -> None:
        """Stores the settled part of the incomplete chunk that follows, replacing the previous one."""
        with self._lock:
            if chunk.stored and chunk.parent_id >= 0:  # a root is not an entry, so its remainder would be unbounded
                before = _size(chunk)
                chunk.remainder = Remainder(text, tokens, settled_chars)
                self._entries.grow(_size(chunk) - before)

    def __len__(self) -> int:
        return len(self._entries)

    def _store(self, chunk: CachedChunk) -> None:
        chunk.stored = self._entries.put((chunk.parent_id, chunk.text), chunk)


def _on_evict(chunk: CachedChunk) -> None:
    # Other chunks may still link to it.
    chunk.stored = False
    chunk.text, chunk.tokens, chunk.next_chunk, chunk.remainder = "", b"", None, None


def _size(chunk: CachedChunk) -> int:
    size = getsizeof(chunk.text) + len(chunk.tokens) + _ENTRY_BYTES
    if (remainder := chunk.remainder) is not None:
        size += getsizeof(remainder.text) + len(remainder.tokens) + _REMAINDER_BYTES
    return size
