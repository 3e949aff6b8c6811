"""Text to token ids and back, equal to the model's own tokenizer, with a cache of earlier results."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from functools import partial
from threading import Lock
from typing import NamedTuple, TypeAlias

from service.index.base import TokenIds
from service.prompts.errors import PromptError
from service.prompts.tokens.segmentation import CutSizes, Segment, Words, segmentation_of
from service.prompts.tokens.token_cache import CachedChunk, PrefixHit, TokenCache
from service.prompts.tokens.vocabulary import Vocabulary

_TOKEN_BYTES = 4
_MAX_WORDS_CHARACTERS = 4096
"""A longer piece is not cut into words, since it has few safe places."""

STEP_CHARACTERS = 2048
"""Of a text that is not cached, as far as it can be cut: up to 2 ms of work, a tenth of that if its words are known."""

_MAX_SALTS = 1000

_QUESTION_CHARACTERS = 32_000
"""At which a question is asked: 5 ms of work for a process that others ask, too."""


class _Roots(NamedTuple):
    """Where the cached chunks and pieces of one cache begin: chunks, pieces within a text, and those at its start."""

    chunks: CachedChunk
    anywhere: CachedChunk
    at_start: CachedChunk

    def of(self, segment: Segment) -> CachedChunk:
        """The root of a segment."""
        return self.anywhere if segment[0] else self.at_start


Steps: TypeAlias = Generator[int, None, TokenIds]
"""Work that ends with tokens. Any thread may go on with it."""


Known: TypeAlias = Mapping[str, bytes]
"""Tokens of words, and of pieces with the context before them, 4 bytes each."""


class Question(NamedTuple):
    """Words, and pieces with the context before them, whose tokens are not cached."""

    words: Sequence[str]
    pieces: Sequence[str]


class NotKnown(Exception):
    """Tokens were dropped from the cache, and not asked for."""


def finished(steps: Steps) -> TokenIds:
    """The result of all steps."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            tokens: TokenIds = done.value
            return tokens


class TextTokenizer:
    """A model's tokenizer with a cache. Thread-safe."""

    def __init__(self, vocabulary: Vocabulary, cache: TokenCache, cuts: CutSizes = CutSizes()) -> None:  # noqa: B008 - immutable
        self._vocabulary = vocabulary
        described = vocabulary.described
        self.vocabulary_size = described.size
        self.is_known_class = described.is_known_class
        self.asks = vocabulary.waits
        """Whether to ask all `questions` of a text before its `steps`."""
        self._closed = False
        self._cache = cache
        self._segmentation = segmentation_of(described.cut_rules, cuts)
        # Without a cache, tokenizing word by word is slower than tokenizing the whole text.
        self._words = self._segmentation.words if self._segmentation is not None and cache.capacity else None
        self._needs_context = self._segmentation is not None and self._segmentation.context is not None
        self._shared = self._new_roots()
        self._of_salt: dict[str, _Roots] = {}
        self._lock = Lock()
        self._around = described.before, described.after

    @property
    def special_tokens_around(self) -> tuple[int, int]:
        """The numbers of special tokens before and after a text."""
        before, after = self._around
        return len(before) // _TOKEN_BYTES, len(after) // _TOKEN_BYTES

    def close(self) -> None:
        """Cancels every `encode` in flight, in any thread; each soon raises CancelledError."""
        self._closed = True
        self._vocabulary.close()

    def find_prefix(self, text: str, salt: str | None = None) -> PrefixHit:
        """Returns the prefix of a text that was cached with this salt; fast for any length."""
        return self._cache.find_prefix(self._roots(salt).chunks, text)

    def _new_roots(self) -> _Roots:
        anywhere = CachedChunk()
        return _Roots(CachedChunk(), anywhere, CachedChunk() if self._needs_context else anywhere)

    def _roots(self, salt: str | None) -> _Roots:
        """The roots of a salt; those of the salt that was used first are dropped beyond a number of salts."""
        if salt is None:
            return self._shared
        with self._lock:
            if (roots := self._of_salt.get(salt)) is None:
                if len(self._of_salt) >= _MAX_SALTS:
                    del self._of_salt[next(iter(self._of_salt))]
                roots = self._of_salt[salt] = self._new_roots()
            return roots

    def encode(
        self,
        text: str,
        *,
        add_special_tokens: bool,
        prefix: PrefixHit | None = None,
        salt: str | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> TokenIds:
        """Returns the ids of a text; raises PromptError for a text with a lone surrogate.

        `prefix` was found with `salt`: what is cached with one salt speeds up no text of another. Raises CancelledError
        soon after `is_cancelled` returns True.
        """
        return finished(
            self.steps(text, add_special_tokens=add_special_tokens, prefix=prefix, salt=salt, is_cancelled=is_cancelled)
        )

    def steps(
        self,
        text: str,
        *,
        add_special_tokens: bool,
        prefix: PrefixHit | None = None,
        salt: str | None = None,
        known: Known | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Steps:
        """As `encode`, in steps: yields before each the number of characters that cannot be cut and begin it.

        With `known`, the answers to all `questions`, nothing is asked of the vocabulary; raises NotKnown if the cache
        has dropped something in between.
        """
        try:
            pieces = yield from self._encode(
                text, prefix or self.find_prefix(text, salt), self._roots(salt), known, is_cancelled
            )
        except (TypeError, UnicodeEncodeError):
            raise PromptError("the text holds an invalid character (a lone surrogate)") from None
        before, after = self._around if add_special_tokens else (b"", b"")
        return array("I", b"".join((before, *pieces, after)))

    def questions(self, text: str, prefix: PrefixHit, salt: str | None = None) -> Iterator[Question]:
        """Yields what has to be asked of the vocabulary for a text of which a prefix is known."""
        roots = self._roots(salt)
        asked: set[str] = set()
        words: list[str] = []
        pieces: list[str] = []
        size = 0
        for segment in self._segments(text, prefix.settled_chars):
            start, end, token = segment
            if token is not None or self._cache.has(roots.of(segment), piece := text[start:end]):
                continue
            if (split := self._splits(piece, roots)) is None:
                new = _others([self._context(segment) + piece], asked)
                pieces += new
            else:
                new = _others(self._cache.words.missing(self._shared.anywhere.id, split.find(piece)), asked)
                words += new
            size += sum(map(len, new))
            if size >= _QUESTION_CHARACTERS:
                yield Question(words, pieces)
                words, pieces, size = [], [], 0
        if words or pieces:
            yield Question(words, pieces)

    def answer(self, question: Question) -> Known:
        """Asks the vocabulary, and blocks meanwhile."""
        known = self._known(question, self._vocabulary.ids(self._texts(question)))
        return self.answer(Question([], [*question.words, *question.pieces])) if known is None else known

    def answer_soon(self, question: Question) -> Known | None:
        """As `answer`, for the event loop; None if it would have to wait, or to ask more than once."""
        tokens = self._vocabulary.ids_soon(self._texts(question))
        return None if tokens is None else self._known(question, tokens)

    def _texts(self, question: Question) -> list[str]:
        """The words, joined to one text, and the pieces."""
        if not question.words:
            return list(question.pieces)
        assert self._words is not None  # noqa: S101 - only asked for with words
        return [self._words.separator.join(question.words), *question.pieces]

    def _known(self, question: Question, tokens: list[TokenIds]) -> Known | None:
        """`tokens` are those of `_texts`. None if the words cannot be told apart."""
        known: dict[str, bytes] = {}
        if question.words:
            joined, *tokens = tokens
            if (apart := self._apart(joined, len(question.words))) is None:
                return None
            known = dict(zip(question.words, apart, strict=True))
        context = (self._segmentation and self._segmentation.context) or ""
        for piece, ids in zip(question.pieces, tokens, strict=True):
            has_context = bool(context) and piece.startswith(context)
            known[piece] = ids[has_context:].tobytes()
        return known

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens, including special ones; raises PromptError for a number outside 32 bits."""
        try:
            packed = array("I", tokens)
        except (OverflowError, TypeError):
            raise PromptError("tokens must be whole numbers of 0 or more", "tokens") from None
        return self._vocabulary.decode(packed)

    def strings(self, tokens: Sequence[int]) -> list[str | None]:
        """Returns each token's vocabulary entry; None for an unknown id."""
        known = {token for token in tokens if 0 <= token < 1 << 32}
        of = dict(zip(known, self._vocabulary.strings(array("I", known)), strict=True))
        return [of.get(token) for token in tokens]

    def reach(self, text: str, tokens: TokenIds, count: int) -> int:
        """Returns the number of characters from the start of the text to the end of token `count`.

        `tokens` are those of the text, with or without special tokens, and possibly truncated at one end; raises
        PromptError for others.
        """
        segments = list(self._segments(text))
        pieces = [self._piece(text, segment, self._shared) for segment in segments]
        left = self._offset(tokens.tobytes(), b"".join(pieces)) + count
        reached = 0
        for segment, piece in zip(segments, pieces, strict=True):
            start, end, _ = segment
            size = len(piece) // _TOKEN_BYTES
            if left < size:
                return max((reached, *(start + within for within in self._ends(text, segment)[: max(left, 0)])))
            left -= size
            reached = end
        return reached

    def _encode(
        self, text: str, prefix: PrefixHit, roots: _Roots, known: Known | None, is_cancelled: Callable[[], bool]
    ) -> Generator[int, None, list[bytes]]:
        """Returns the tokens of a text in pieces, and caches them by segments and by chunks."""
        pieces, uncached, chunk, start, settled = prefix
        if self._segmentation is None:
            yield len(text)
            return [self._piece(text, (0, len(text), None), roots, known)] if text else []
        lookahead = self._segmentation.lookahead
        last_settled = len(text) - lookahead
        remainder_end = remainder_pieces = 0
        chunk_end = self._cache.chunk_sizes.end
        end = chunk_end(start)
        step_end = settled
        for segment in self._segmentation.segments(text, settled):
            while segment[1] + lookahead > end and end <= len(text):
                chunk = self._cache.append(chunk, text[start:end], b"".join(pieces[uncached:]), settled)
                uncached = len(pieces)
                start, end = end, chunk_end(end)
            if self._closed or is_cancelled():
                raise CancelledError
            if segment[1] - step_end > STEP_CHARACTERS:
                step_end = settled
                yield segment[1] - settled
            pieces.append(self._piece(text, segment, roots, known))
            settled = segment[1]
            if settled <= last_settled:
                remainder_end, remainder_pieces = settled, len(pieces)
        if remainder_pieces > uncached:
            tokens = b"".join(pieces[uncached:remainder_pieces])
            self._cache.set_remainder(chunk, text[start : remainder_end + lookahead], tokens, remainder_end)
        return pieces

    def _segments(self, text: str, start: int = 0) -> Iterable[Segment]:
        if self._segmentation is None:
            return [(0, len(text), None)] if text else []
        return self._segmentation.segments(text, start)

    def _piece(self, text: str, segment: Segment, roots: _Roots, known: Known | None = None) -> bytes:
        start, end, token = segment
        if token is not None:
            return token.to_bytes(_TOKEN_BYTES, sys.byteorder)
        piece = text[start:end]
        parent = roots.of(segment)
        tokens = self._cache.get(parent, piece)
        if tokens is None:
            tokens = self._tokenized(segment, piece, roots, known)
            self._cache.put(parent, piece, tokens)
        return tokens

    def _tokenized(self, segment: Segment, piece: str, roots: _Roots, known: Known | None) -> bytes:
        """The tokens of a segment that is not cached as a whole. Cached words are shared by all texts without salt."""
        if (split := self._splits(piece, roots)) is not None:
            tokenize = self._tokens_of_words if known is None else partial(_each, known)
            return self._cache.words.tokens(self._shared.anywhere.id, split.find(piece), tokenize)
        context = self._context(segment)
        if known is not None:
            return _each(known, [context + piece])[0]
        return self._vocabulary.ids([context + piece])[0][bool(context) :].tobytes()

    def _splits(self, piece: str, roots: _Roots) -> Words | None:
        """How to split a piece into words; None if it is tokenized as a whole."""
        return self._words if roots is self._shared and len(piece) <= _MAX_WORDS_CHARACTERS else None

    def _tokens_of_words(self, words: Sequence[str]) -> list[bytes]:
        """The tokens of each of several words, in one call: its overhead exceeds the work for a single word."""
        assert self._words is not None  # noqa: S101 - only called with words
        (joined,) = self._vocabulary.ids([self._words.separator.join(words)])
        apart = self._apart(joined, len(words))
        return [ids.tobytes() for ids in self._vocabulary.ids(words)] if apart is None else apart

    def _apart(self, joined: TokenIds, count: int) -> list[bytes] | None:
        """The tokens of each of `count` words that were joined; None if the separator is also the unknown token."""
        assert self._words is not None  # noqa: S101 - only called with words
        tokens, number = joined.tobytes(), self._words.separator_id
        if joined.count(number) != count - 1:
            return None
        pieces, start = [], 0
        for _ in range(count - 1):
            end = joined.index(number, start)
            pieces.append(tokens[start * _TOKEN_BYTES : end * _TOKEN_BYTES])
            start = end + 1
        return [*pieces, tokens[start * _TOKEN_BYTES :]]

    def _context(self, segment: Segment) -> str:
        """Text of one token to prepend to a segment that would tokenize differently at the start of a text; or none."""
        return (self._segmentation and segment[0] and self._segmentation.context) or ""

    def _ends(self, text: str, segment: Segment) -> list[int]:
        """The end of each token of a segment, in characters from the segment's start."""
        context = self._context(segment)
        start, end, _ = segment
        ends = self._vocabulary.ends(context + text[start:end])
        return [end - len(context) for end in ends[bool(context) :]]

    def _offset(self, tokens: bytes, body: bytes) -> int:
        """Returns the number of body tokens before the first of `tokens`; negative if special tokens come first."""
        before, after = self._around
        for start, whole in ((0, body), (len(before), before + body + after)):
            if whole.endswith(tokens):
                return (len(whole) - len(tokens) - start) // _TOKEN_BYTES
            if whole.startswith(tokens):
                return -start // _TOKEN_BYTES
        raise PromptError("the tokens are not those of the text", "tokens")


def _others(texts: Iterable[str], asked: set[str]) -> list[str]:
    """The texts that are not in `asked`, and adds them."""
    new = [text for text in dict.fromkeys(texts) if text not in asked]
    asked.update(new)
    return new


def _each(known: Known, texts: Sequence[str]) -> list[bytes]:
    try:
        return [known[text] for text in texts]
    except KeyError:
        raise NotKnown from None
