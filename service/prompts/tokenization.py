"""Text to token ids and back, as the engine's tokenizer does it, without doing again what was done before."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tokenizers import Tokenizer

from service.index.base import TokenIds
from service.prompts.errors import PromptError
from service.prompts.model_files import BadModelFile, ModelFiles
from service.prompts.segmentation import Segment, segmentation_of
from service.prompts.special_tokens import add_special_tokens
from service.prompts.token_cache import Known, TokenCache

_STRETCH = 1024
"""Characters of a stretch. The start of a text is looked up by stretches, which is less work than by segments."""

_TOKEN_BYTES = 4
_PROBES = ("a", "b c")


class Recalled(NamedTuple):
    """The start of a text as far as it was seen before: the tokens up to character `done`, in pieces.

    `name` is that of the last stretch, and `seen` is where it ends, at `done` or after it.
    """

    tokens: list[bytes]
    name: int
    seen: int
    done: int


class TextTokenizer:
    """A tokenizer as transformers 5.23 sets up `TokenizersBackend`: without truncation or padding, all tokens known.

    Safe for threads.
    """

    def __init__(self, files: ModelFiles, cache: TokenCache) -> None:
        """Raises BadModelFile. Blocks for as long as it takes to read a vocabulary."""
        try:
            self._tokenizer = Tokenizer.from_file(str(files.tokenizer))
        except Exception as error:  # the library raises no narrower class
            raise BadModelFile(files.tokenizer, error) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        add_special_tokens(self._tokenizer, files.config, files.special_tokens)
        self._tokenizer.encode_special_tokens = bool(files.config.get("split_special_tokens", False))
        self.vocabulary_size: int = self._tokenizer.get_vocab_size()
        self._file = files.tokenizer
        self._cache = cache
        self._segmentation = segmentation_of(self._tokenizer)
        self._root, self._at_start, self._anywhere = cache.name(), cache.name(), cache.name()
        if self._segmentation is None or self._segmentation.context is None:
            self._at_start = self._anywhere
        self._around = self._special_tokens_around()

    @property
    def special_tokens_around(self) -> tuple[int, int]:
        """How many tokens are put before and after a text when special tokens are asked for."""
        before, after = self._around
        return len(before) // _TOKEN_BYTES, len(after) // _TOKEN_BYTES

    def recall(self, text: str) -> Recalled:
        """Gives what is known of the start of a text; quick, whatever its length."""
        tokens: list[bytes] = []
        name, seen, done = self._root, 0, 0
        while seen + _STRETCH <= len(text):
            known = self._cache.get((name, text[seen : seen + _STRETCH]))
            if known is None:
                break
            tokens.append(known.tokens)
            name, seen, done = known.name, seen + _STRETCH, known.done
        return Recalled(tokens, name, seen, done)

    def encode(self, text: str, *, add_special_tokens: bool, recalled: Recalled | None = None) -> TokenIds:
        """Gives the ids of a text; raises PromptError for one that is no text (a lone surrogate)."""
        try:
            pieces = self._encode(text, recalled or self.recall(text))
        except (TypeError, UnicodeEncodeError):
            raise PromptError("the text holds a character that is none in Unicode (a lone surrogate)") from None
        before, after = self._around if add_special_tokens else (b"", b"")
        return array("I", b"".join((before, *pieces, after)))

    def decode(self, tokens: Sequence[int]) -> str:
        """Gives the text of tokens, special ones too; raises PromptError for a number that can be no token."""
        try:
            return self._tokenizer.decode_batch([tokens], skip_special_tokens=False)[0]
        except (OverflowError, TypeError):
            raise PromptError("tokens must be whole numbers of 0 or more", "tokens") from None

    def strings(self, tokens: Sequence[int]) -> list[str | None]:
        """Gives each token as the vocabulary spells it, None for an id that it lacks."""
        return [self._tokenizer.id_to_token(token) if 0 <= token < 1 << 32 else None for token in tokens]

    def reach(self, text: str, tokens: TokenIds, count: int) -> int:
        """Gives the characters of the text from its start to the end of token `count`.

        `tokens` are those of the text, with special tokens around them or not, and cut at one end or not; raises
        PromptError for others.
        """
        segments = list(self._segments(text, 0))
        pieces = [self._piece(text, segment) for segment in segments]
        left = self._offset(tokens.tobytes(), b"".join(pieces)) + count
        reached = 0
        for segment, piece in zip(segments, pieces, strict=True):
            size = len(piece) // _TOKEN_BYTES
            if left < size:
                return max((reached, *(segment.start + end for end in self._ends(text, segment)[: max(left, 0)])))
            left -= size
            reached = segment.end
        return reached

    def _encode(self, text: str, recalled: Recalled) -> list[bytes]:
        """Gives the tokens of a text in pieces, and remembers them by segments and by stretches."""
        pieces = recalled.tokens
        stretch, end = recalled.name, recalled.seen + _STRETCH
        fresh = len(pieces)
        settled = recalled.done
        for segment in self._segments(text, recalled.done):
            while (
                self._segmentation is not None and end <= len(text) and segment.end + self._segmentation.lookahead > end
            ):
                known = Known(b"".join(pieces[fresh:]), self._cache.name(), settled)
                self._cache.put((stretch, text[end - _STRETCH : end]), known)
                stretch, end, fresh = known.name, end + _STRETCH, len(pieces)
            pieces.append(self._piece(text, segment))
            settled = segment.end
        return pieces

    def _segments(self, text: str, start: int) -> Iterator[Segment]:
        if self._segmentation is not None:
            return self._segmentation.segments(text, start)
        return iter([Segment(start, len(text), None)] if start < len(text) else [])

    def _piece(self, text: str, segment: Segment) -> bytes:
        if segment.token is not None:
            return segment.token.to_bytes(_TOKEN_BYTES, sys.byteorder)
        piece = text[segment.start : segment.end]
        key = (self._anywhere if segment.start else self._at_start, piece)
        known = self._cache.get(key)
        if known is None:
            context = self._context(segment)
            (encoding,) = self._tokenizer.encode_batch_fast([context + piece], add_special_tokens=False)
            known = Known(array("I", encoding.ids[bool(context) :]).tobytes())
            self._cache.put(key, known)
        return known.tokens

    def _context(self, segment: Segment) -> str:
        """What to put before a segment that tokenizes otherwise when it starts a text: text of one token, or none."""
        return (self._segmentation and segment.start and self._segmentation.context) or ""

    def _ends(self, text: str, segment: Segment) -> list[int]:
        """Where each token of a segment ends, in characters from the segment's start."""
        context = self._context(segment)
        piece = context + text[segment.start : segment.end]
        (encoding,) = self._tokenizer.encode_batch([piece], add_special_tokens=False)
        return [end - len(context) for _, end in encoding.offsets[bool(context) :]]

    def _offset(self, tokens: bytes, body: bytes) -> int:
        """Gives how many tokens of the body stand before the first of `tokens`; below zero where special ones do."""
        before, after = self._around
        for start, whole in ((0, body), (len(before), before + body + after)):
            if whole.endswith(tokens):
                return (len(whole) - len(tokens) - start) // _TOKEN_BYTES
            if whole.startswith(tokens):
                return -start // _TOKEN_BYTES
        raise PromptError("the tokens are not those of the text", "tokens")

    def _special_tokens_around(self) -> tuple[bytes, bytes]:
        """What the post-processor puts before and after a text; raises BadModelFile when it does anything else."""
        around: set[tuple[bytes, bytes]] = set()
        for probe in _PROBES:
            bare, full = (
                array("I", self._tokenizer.encode(probe, add_special_tokens=special).ids) for special in (False, True)
            )
            starts = (n for n in range(len(full) - len(bare) + 1) if full[n : n + len(bare)] == bare)
            if (start := next(starts, None)) is not None:
                around.add((full[:start].tobytes(), full[start + len(bare) :].tobytes()))
        if len(around) != 1:
            raise BadModelFile(self._file, "its post_processor does more than to put tokens around a text")
        return around.pop()
