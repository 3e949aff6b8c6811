"""Text to token ids and back, as the engine's tokenizer does it, without doing again what was done before."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from concurrent.futures import CancelledError

from tokenizers import Tokenizer

from service.index.base import TokenIds
from service.prompts.errors import PromptError
from service.prompts.models.model_files import CONFIG, BadModelFile, ModelFiles
from service.prompts.tokens.segmentation import Segment, segmentation_of
from service.prompts.tokens.token_cache import Known, Recalled, TokenCache, stretch_end

_TOKEN_BYTES = 4
_LONGEST_OF_WORDS = 4096
"""Characters of a piece above which it is not cut into words: it has few, if any."""

_PROBES = ("a", "b c")


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
        try:
            files.special_tokens.add_to(self._tokenizer)
        except (AttributeError, TypeError, ValueError) as error:
            raise BadModelFile(files.folder / CONFIG, f"its added tokens are none ({error})") from None
        self._tokenizer.encode_special_tokens = bool(files.config.get("split_special_tokens", False))
        self.vocabulary_size: int = self._tokenizer.get_vocab_size()
        self._closed = False
        self._file = files.tokenizer
        self._cache = cache
        self._segmentation = segmentation_of(self._tokenizer)
        # Words that are not kept cost more than the text as a whole.
        self._words = self._segmentation.words if self._segmentation is not None and cache.capacity else None
        self._start, self._anywhere = Known(), Known()
        needs_context = self._segmentation is not None and self._segmentation.context is not None
        self._at_start = Known() if needs_context else self._anywhere
        self._around = self._special_tokens_around()

    @property
    def special_tokens_around(self) -> tuple[int, int]:
        """How many tokens are put before and after a text when special tokens are asked for."""
        before, after = self._around
        return len(before) // _TOKEN_BYTES, len(after) // _TOKEN_BYTES

    def close(self) -> None:
        """Has every `encode` that still runs, in whatever thread, end with CancelledError after a moment."""
        self._closed = True

    def recall(self, text: str) -> Recalled:
        """Gives what is known of the start of a text; quick, however long it is."""
        return self._cache.recall(self._start, text)

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
        segments = self._segments(text)
        pieces = [self._piece(text, segment) for segment in segments]
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

    def _encode(self, text: str, recalled: Recalled) -> list[bytes]:
        """Gives the tokens of a text in pieces, and remembers them by segments and by stretches."""
        pieces, fresh, stretch, seen, settled = recalled
        if self._segmentation is None:
            return [self._piece(text, (0, len(text), None))] if text else []
        lookahead = self._segmentation.lookahead
        last = len(text) - lookahead
        finished = number = 0
        end = stretch_end(seen)
        for segment in self._segmentation.segments(text, settled):
            while segment[1] + lookahead > end and end <= len(text):
                stretch = self._cache.follow(stretch, text[seen:end], b"".join(pieces[fresh:]), settled)
                fresh = len(pieces)
                seen, end = end, stretch_end(end)
            if self._closed:
                raise CancelledError
            pieces.append(self._piece(text, segment))
            settled = segment[1]
            if settled <= last:
                finished, number = settled, len(pieces)
        if number > fresh:
            rest = b"".join(pieces[fresh:number])
            self._cache.finish(stretch, text[seen : finished + lookahead], rest, finished)
        return pieces

    def _segments(self, text: str) -> list[Segment]:
        if self._segmentation is None:
            return [(0, len(text), None)]
        return list(self._segmentation.segments(text))

    def _piece(self, text: str, segment: Segment) -> bytes:
        start, end, token = segment
        if token is not None:
            return token.to_bytes(_TOKEN_BYTES, sys.byteorder)
        piece = text[start:end]
        place = self._anywhere if start else self._at_start
        tokens = self._cache.get(place, piece)
        if tokens is None:
            tokens = self._tokenized(segment, piece)
            self._cache.put(place, piece, tokens)
        return tokens

    def _tokenized(self, segment: Segment, piece: str) -> bytes:
        """The tokens of a segment of text that is not known as a whole."""
        if self._words is not None and len(piece) <= _LONGEST_OF_WORDS:
            return self._cache.words.tokens(self._anywhere.name, self._words.find(piece), self._tokens_of_words)
        context = self._context(segment)
        return self._ids(context + piece)[bool(context) :].tobytes()

    def _tokens_of_words(self, words: Sequence[str]) -> list[bytes]:
        """The tokens of each of several words: at once, since to tokenize one costs more than it is long."""
        assert self._words is not None  # noqa: S101 - there are none otherwise
        ids = self._ids(self._words.separator.join(words))
        tokens, number = ids.tobytes(), self._words.separator_id
        if ids.count(number) != len(words) - 1:
            # The separator is also what the model gives for a character that it does not know.
            return [self._ids(word).tobytes() for word in words]
        pieces, start = [], 0
        for _ in words[1:]:
            end = ids.index(number, start)
            pieces.append(tokens[start * _TOKEN_BYTES : end * _TOKEN_BYTES])
            start = end + 1
        return [*pieces, tokens[start * _TOKEN_BYTES :]]

    def _ids(self, text: str) -> TokenIds:
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return array("I", encoding.ids)

    def _context(self, segment: Segment) -> str:
        """What to put before a segment that tokenizes otherwise when it starts a text: text of one token, or none."""
        return (self._segmentation and segment[0] and self._segmentation.context) or ""

    def _ends(self, text: str, segment: Segment) -> list[int]:
        """Where each token of a segment ends, in characters from the segment's start."""
        context = self._context(segment)
        start, end, _ = segment
        piece = context + text[start:end]
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
