"""Text to token ids and back, equal to the model's own tokenizer, with a cache of earlier results."""

from __future__ import annotations

import json
import sys
from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol, TypeAlias

from tokenizers import Tokenizer

from service.index.base import TokenIds
from service.prompts.errors import BadModelFile, PromptError
from service.prompts.tokens.segmentation import CutSizes, Segment, segmentation_of
from service.prompts.tokens.special_tokens import SpecialTokens
from service.prompts.tokens.token_cache import CachedChunk, PrefixHit, TokenCache
from service.prompts.tokens.tokenizer_class import is_rebuilt, rebuilt

_TOKEN_BYTES = 4
_MAX_WORDS_CHARACTERS = 4096
"""A longer piece is not cut into words, since it has few safe places."""

STEP_CHARACTERS = 2048
"""Of a text that is not cached, as far as it can be cut: up to 2 ms of work, a tenth of that if its words are known."""

_MAX_SALTS = 1000

_PROBES = ("a", "b c")
_PANIC = "PanicException"
"""A class that the library does not export."""


class TokenizerFiles(Protocol):
    """The model files of the tokenizer (service/prompts/models/model_files.py)."""

    @property
    def tokenizer_file(self) -> Path: ...
    @property
    def config_file(self) -> Path: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def tokenizer_class(self) -> str: ...
    @property
    def special_tokens(self) -> SpecialTokens: ...


class _Roots(NamedTuple):
    """Where the cached chunks and pieces of one cache begin: chunks, pieces within a text, and those at its start."""

    chunks: CachedChunk
    anywhere: CachedChunk
    at_start: CachedChunk


Steps: TypeAlias = Generator[int, None, TokenIds]
"""Work that ends with tokens. Any thread may go on with it."""


def finished(steps: Steps) -> TokenIds:
    """The result of all steps."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            tokens: TokenIds = done.value
            return tokens


class TextTokenizer:
    """A tokenizer as AutoTokenizer of transformers 5.19 configures it: no truncation, no padding, all tokens added.

    Thread-safe.
    """

    def __init__(self, files: TokenizerFiles, cache: TokenCache, cuts: CutSizes = CutSizes()) -> None:  # noqa: B008 - immutable
        """Raises BadModelFile. Blocks while it reads the vocabulary."""
        self._tokenizer, self.is_known_class = _load(files)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        try:
            files.special_tokens.add_to(self._tokenizer)
        except (AttributeError, TypeError, ValueError) as error:
            raise BadModelFile(files.config_file, f"its added tokens cannot be used ({error})") from None
        self._tokenizer.encode_special_tokens = bool(files.config.get("split_special_tokens", False))
        self.vocabulary_size: int = self._tokenizer.get_vocab_size()
        self._closed = False
        self._file = files.tokenizer_file
        self._cache = cache
        self._segmentation = segmentation_of(self._tokenizer, cuts)
        # Without a cache, tokenizing word by word is slower than tokenizing the whole text.
        self._words = self._segmentation.words if self._segmentation is not None and cache.capacity else None
        self._needs_context = self._segmentation is not None and self._segmentation.context is not None
        self._shared = self._new_roots()
        self._of_salt: dict[str, _Roots] = {}
        self._lock = Lock()
        self._around = self._special_tokens_around()

    @property
    def special_tokens_around(self) -> tuple[int, int]:
        """The numbers of special tokens before and after a text."""
        before, after = self._around
        return len(before) // _TOKEN_BYTES, len(after) // _TOKEN_BYTES

    def close(self) -> None:
        """Cancels every `encode` in flight, in any thread; each soon raises CancelledError."""
        self._closed = True

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
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Steps:
        """As `encode`, in steps: yields before each the number of characters that cannot be cut and begin it."""
        try:
            pieces = yield from self._encode(
                text, prefix or self.find_prefix(text, salt), self._roots(salt), is_cancelled
            )
        except (TypeError, UnicodeEncodeError):
            raise PromptError("the text holds an invalid character (a lone surrogate)") from None
        before, after = self._around if add_special_tokens else (b"", b"")
        return array("I", b"".join((before, *pieces, after)))

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens, including special ones; raises PromptError for a number outside 32 bits."""
        try:
            with panics_as_errors():
                return self._tokenizer.decode_batch([tokens], skip_special_tokens=False)[0]
        except (OverflowError, TypeError):
            raise PromptError("tokens must be whole numbers of 0 or more", "tokens") from None

    def strings(self, tokens: Sequence[int]) -> list[str | None]:
        """Returns each token's vocabulary entry; None for an unknown id."""
        return [self._tokenizer.id_to_token(token) if 0 <= token < 1 << 32 else None for token in tokens]

    def reach(self, text: str, tokens: TokenIds, count: int) -> int:
        """Returns the number of characters from the start of the text to the end of token `count`.

        `tokens` are those of the text, with or without special tokens, and possibly truncated at one end; raises
        PromptError for others.
        """
        segments = self._segments(text)
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
        self, text: str, prefix: PrefixHit, roots: _Roots, is_cancelled: Callable[[], bool]
    ) -> Generator[int, None, list[bytes]]:
        """Returns the tokens of a text in pieces, and caches them by segments and by chunks."""
        pieces, uncached, chunk, start, settled = prefix
        if self._segmentation is None:
            yield len(text)
            return [self._piece(text, (0, len(text), None), roots)] if text else []
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
            pieces.append(self._piece(text, segment, roots))
            settled = segment[1]
            if settled <= last_settled:
                remainder_end, remainder_pieces = settled, len(pieces)
        if remainder_pieces > uncached:
            tokens = b"".join(pieces[uncached:remainder_pieces])
            self._cache.set_remainder(chunk, text[start : remainder_end + lookahead], tokens, remainder_end)
        return pieces

    def _segments(self, text: str) -> list[Segment]:
        if self._segmentation is None:
            return [(0, len(text), None)]
        return list(self._segmentation.segments(text))

    def _piece(self, text: str, segment: Segment, roots: _Roots) -> bytes:
        start, end, token = segment
        if token is not None:
            return token.to_bytes(_TOKEN_BYTES, sys.byteorder)
        piece = text[start:end]
        parent = roots.anywhere if start else roots.at_start
        tokens = self._cache.get(parent, piece)
        if tokens is None:
            tokens = self._tokenized(segment, piece, by_words=roots is self._shared)
            self._cache.put(parent, piece, tokens)
        return tokens

    def _tokenized(self, segment: Segment, piece: str, *, by_words: bool) -> bytes:
        """The tokens of a segment that is not cached as a whole. Cached words are shared by all texts without salt."""
        if by_words and self._words is not None and len(piece) <= _MAX_WORDS_CHARACTERS:
            return self._cache.words.tokens(self._shared.anywhere.id, self._words.find(piece), self._tokens_of_words)
        context = self._context(segment)
        return self._ids(context + piece)[bool(context) :].tobytes()

    def _tokens_of_words(self, words: Sequence[str]) -> list[bytes]:
        """The tokens of each of several words, in one call: its overhead exceeds the work for a single word."""
        assert self._words is not None  # noqa: S101 - only called with words
        ids = self._ids(self._words.separator.join(words))
        tokens, number = ids.tobytes(), self._words.separator_id
        if ids.count(number) != len(words) - 1:
            # The separator is also the model's token for unknown characters.
            return [self._ids(word).tobytes() for word in words]
        pieces, start = [], 0
        for _ in words[1:]:
            end = ids.index(number, start)
            pieces.append(tokens[start * _TOKEN_BYTES : end * _TOKEN_BYTES])
            start = end + 1
        return [*pieces, tokens[start * _TOKEN_BYTES :]]

    def _ids(self, text: str) -> TokenIds:
        try:  # without panics_as_errors, which takes longer than a short text
            (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        except BaseException as error:
            raise _without_panic(error) from None
        return array("I", encoding.ids)

    def _context(self, segment: Segment) -> str:
        """Text of one token to prepend to a segment that would tokenize differently at the start of a text; or none."""
        return (self._segmentation and segment[0] and self._segmentation.context) or ""

    def _ends(self, text: str, segment: Segment) -> list[int]:
        """The end of each token of a segment, in characters from the segment's start."""
        context = self._context(segment)
        start, end, _ = segment
        piece = context + text[start:end]
        with panics_as_errors():
            (encoding,) = self._tokenizer.encode_batch([piece], add_special_tokens=False)
        return [end - len(context) for _, end in encoding.offsets[bool(context) :]]

    def _offset(self, tokens: bytes, body: bytes) -> int:
        """Returns the number of body tokens before the first of `tokens`; negative if special tokens come first."""
        before, after = self._around
        for start, whole in ((0, body), (len(before), before + body + after)):
            if whole.endswith(tokens):
                return (len(whole) - len(tokens) - start) // _TOKEN_BYTES
            if whole.startswith(tokens):
                return -start // _TOKEN_BYTES
        raise PromptError("the tokens are not those of the text", "tokens")

    def _special_tokens_around(self) -> tuple[bytes, bytes]:
        """The tokens that the post-processor adds around a text; raises BadModelFile if it does anything else."""
        around: set[tuple[bytes, bytes]] = set()
        for probe in _PROBES:
            bare, full = (
                array("I", self._tokenizer.encode(probe, add_special_tokens=special).ids) for special in (False, True)
            )
            starts = (n for n in range(len(full) - len(bare) + 1) if full[n : n + len(bare)] == bare)
            if (start := next(starts, None)) is not None:
                around.add((full[:start].tobytes(), full[start + len(bare) :].tobytes()))
        if len(around) != 1:
            raise BadModelFile(self._file, "its post_processor does more than put tokens around a text")
        return around.pop()


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Turns failures of the tokenizer library, its panics and plain Exceptions, to PromptError."""
    try:
        yield
    except BaseException as error:
        raise _without_panic(error) from None


def _without_panic(error: BaseException) -> BaseException:
    """PromptError for a failure of the tokenizer library; any other error is returned as it is."""
    if type(error) is not Exception and type(error).__name__ != _PANIC:
        return error
    return PromptError(f"the model's tokenizer fails: {str(error)[:200]}")


def _load(files: TokenizerFiles) -> tuple[Tokenizer, bool]:
    """Returns the tokenizer, and whether its class is known; raises BadModelFile."""
    try:
        source, known = files.tokenizer_file.read_bytes().removeprefix(BOM_UTF8), True
        if is_rebuilt(files.tokenizer_class):  # to read and write the whole vocabulary in Python takes as long again
            built = rebuilt(described := json.loads(source), files.tokenizer_class, files.config)
            known = built.known
            if built.tokenizer is not described:
                source = json.dumps(built.tokenizer).encode()
        with panics_as_errors():
            return Tokenizer.from_buffer(source), known
    except Exception as error:  # the library raises no narrower class
        raise BadModelFile(files.tokenizer_file, error) from None
