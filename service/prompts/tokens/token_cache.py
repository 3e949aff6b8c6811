"""What was tokenized before, bounded in bytes, the least recently used let go."""

from __future__ import annotations

from itertools import count
from sys import getsizeof
from threading import Lock
from typing import NamedTuple

from service.byte_lru import RecentlyUsed
from service.prompts.tokens.word_cache import WordCache

_STRETCH = 4096
_FIRST_STRETCH = 512
"""Characters of a stretch, and of those up to there. The start of a text is found by stretches, which is less work than
by segments; what is short has some of them, too."""

_ENTRY_BYTES = 350
"""What an entry takes besides its text and its tokens: the key, the place in the order, the objects' heads."""

_REST_BYTES = 100

_names = count()


class Rest(NamedTuple):
    """What was last seen between a stretch and the end of a text: its settled part, up to character `done`."""

    text: str
    tokens: bytes
    done: int


class Known:
    """A text and its tokens, or a stretch of a text and the tokens that it settles, up to character `done`.

    `name` stands for all up to here, to what may follow; `last` is the stretch that was last seen to follow, `rest`
    what was where there was no whole one. Tokens are unsigned 32-bit integers in the machine's order.
    """

    __slots__ = ("done", "epoch", "kept", "last", "name", "place", "rest", "text", "tokens")

    def __init__(self, place: int = -1, text: str = "", tokens: bytes = b"", done: int = 0) -> None:
        self.name = next(_names)
        self.place = place
        self.text = text
        self.tokens = tokens
        self.done = done
        self.kept = True
        self.epoch = -1
        self.last: Known | None = None
        self.rest: Rest | None = None


class Recalled(NamedTuple):
    """The start of a text as far as it was seen before: the tokens up to character `done`, in pieces.

    `stretch` is the last one seen; it ends at character `seen`, and the first `whole` pieces are of stretches.
    """

    tokens: list[bytes]
    whole: int
    stretch: Known
    seen: int
    done: int


class TokenCache:
    """Tokens by text. Safe for threads: long texts are tokenized away from the event loop, short ones on it.

    A text is looked up in a place: a stretch that it follows, or a space that some tokenizer has for itself.
    """

    def __init__(self, capacity: int) -> None:
        """`capacity` in bytes, of which an eighth is for words; 0 keeps nothing."""
        self.words = WordCache(capacity // 8)
        self.hits = 0
        """Characters that were known when they were looked up, and those that were not."""
        self.misses = 0
        self._entries: RecentlyUsed[tuple[int, str], Known] = RecentlyUsed(
            capacity - capacity // 8, lambda _, known: _size(known), _let_go
        )
        self._lock = Lock()

    @property
    def capacity(self) -> int:
        """In bytes, without that for words."""
        return self._entries.capacity

    @property
    def used(self) -> int:
        """In bytes, without what words take."""
        return self._entries.used

    def get(self, place: Known, text: str) -> bytes | None:
        """Gives the tokens of a text, if they are known."""
        key = (place.name, text)
        with self._lock:
            known = self._entries.get(key)
            if known is None:
                self.misses += len(text)
                return None
            self.hits += len(text)
            self._entries.use(key)
            return known.tokens

    def put(self, place: Known, text: str, tokens: bytes) -> None:
        """Keeps the tokens of a text."""
        with self._lock:
            self._keep(Known(place.name, text, tokens))

    def recall(self, start: Known, text: str) -> Recalled:
        """Gives what is known of the start of a text; quick, however long it is."""
        found: list[Known] = []
        stretch, seen = start, 0
        with self._lock:
            while (end := stretch_end(seen)) <= len(text):
                following = stretch.last
                if following is None or not following.kept or not text.startswith(following.text, seen):
                    following = self._entries.get((stretch.name, text[seen:end]))
                    if following is None:
                        break
                    stretch.last = following
                stretch = following
                seen = end
                found.append(stretch)
            tokens, done = [known.tokens for known in found], stretch.done
            if (rest := stretch.rest) is not None and text.startswith(rest.text, seen):
                tokens.append(rest.tokens)
                done = rest.done
            if found and stretch.epoch != (epoch := self._epoch()):
                stretch.epoch = epoch
                # The first stretch was used last, so that it goes last: what follows it is not found without it.
                for known in reversed(found):
                    self._entries.use((known.place, known.text))
            self.hits += done
        return Recalled(tokens, len(found), stretch, seen, done)

    def follow(self, stretch: Known, text: str, tokens: bytes, done: int) -> Known:
        """Keeps the stretch of that text, which follows another; gives the new one."""
        following = Known(stretch.name, text, tokens, done)
        with self._lock:
            self._keep(following)
        return following

    def finish(self, stretch: Known, text: str, tokens: bytes, done: int) -> None:
        """Keeps, in place of what was last, what follows the stretch and is settled in a text that ends before long."""
        with self._lock:
            if stretch.kept and stretch.place >= 0:  # not of a text that is too short to have a stretch
                before = _size(stretch)
                stretch.rest = Rest(text, tokens, done)
                self._entries.grow(_size(stretch) - before)

    def __len__(self) -> int:
        return len(self._entries)

    def _epoch(self) -> int:
        """Rises with each eighth of the capacity that is written; what is used is moved in the order once in it."""
        return self._entries.written * 8 // (self._entries.capacity + 1)

    def _keep(self, known: Known) -> None:
        known.epoch = self._epoch()
        known.kept = self._entries.put((known.place, known.text), known)


def _let_go(known: Known) -> None:
    known.kept = False
    known.text, known.tokens, known.last, known.rest = "", b"", None, None


def stretch_end(start: int) -> int:
    """Where a stretch ends that starts at that character."""
    return start + (_STRETCH if start >= _STRETCH else _FIRST_STRETCH)


def _size(known: Known) -> int:
    size = getsizeof(known.text) + len(known.tokens) + _ENTRY_BYTES
    if (rest := known.rest) is not None:
        size += getsizeof(rest.text) + len(rest.tokens) + _REST_BYTES
    return size
