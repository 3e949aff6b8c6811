"""A model's tokenizer as its files and its class describe it, without any cache."""

from __future__ import annotations

import json
from array import array
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import msgspec
from tokenizers import Tokenizer

from service.index.base import TokenIds
from service.prompts.errors import BadModelFile, PromptError
from service.prompts.tokens.segmentation import CutRules, cut_rules_of
from service.prompts.tokens.special_tokens import SpecialTokens
from service.prompts.tokens.tokenizer_class import is_rebuilt, rebuilt

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


class Description(msgspec.Struct, frozen=True, tag=True):
    """A tokenizer without its vocabulary."""

    size: int
    """Number of tokens, with the added ones."""
    is_known_class: bool
    before: bytes
    """The special tokens before a text, 4 bytes each, as those after it."""
    after: bytes
    cut_rules: CutRules
    digest: bytes
    """Of everything that determines tokens."""


class Vocabulary(Protocol):
    """Texts to tokens and back. Thread-safe; each method raises PromptError, and TokenizerUnavailable."""

    described: Description
    waits: bool
    """Whether methods wait for a process, which the event loop may not."""

    def ids(self, texts: Sequence[str]) -> list[TokenIds]:
        """Returns the tokens of each text, without special ones around it."""
        ...

    def ids_soon(self, texts: Sequence[str]) -> list[TokenIds] | None:
        """As `ids`, for the event loop; None if it would have to wait, or if `ids` fails."""
        ...

    def ends(self, text: str) -> list[int]:
        """Returns the end of each token of a text, in characters."""
        ...

    def decode(self, tokens: TokenIds) -> str:
        """Returns the text of tokens, including special ones."""
        ...

    def strings(self, tokens: Sequence[int]) -> list[str | None]:
        """Returns each token's entry; None for an unknown id."""
        ...

    def close(self) -> None:
        """Ends the calls in flight, which raise CancelledError, if that is possible."""
        ...


class LoadedVocabulary:
    """A Vocabulary in this process, as AutoTokenizer of transformers 5.19 loads it: no truncation, no padding."""

    waits = False

    def __init__(self, files: TokenizerFiles) -> None:
        """Raises BadModelFile. Blocks while it reads the vocabulary, which holds the GIL."""
        source, is_known_class = _read(files)
        try:
            with panics_as_errors():
                self._tokenizer = Tokenizer.from_buffer(source)
        except Exception as error:  # the library raises no narrower class
            raise BadModelFile(files.tokenizer_file, error) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        try:
            files.special_tokens.add_to(self._tokenizer)
        except (AttributeError, TypeError, ValueError) as error:
            raise BadModelFile(files.config_file, f"its added tokens cannot be used ({error})") from None
        self._tokenizer.encode_special_tokens = bool(files.config.get("split_special_tokens", False))
        try:
            with panics_as_errors():
                before, after = self._special_tokens_around(files.tokenizer_file)
                rules = cut_rules_of(self._tokenizer)
        except PromptError as error:
            raise BadModelFile(files.tokenizer_file, error.message) from None
        self.described = Description(
            self._tokenizer.get_vocab_size(),
            is_known_class,
            before,
            after,
            rules,
            blake2b(source + msgspec.msgpack.encode((rules, before, after)), digest_size=16).digest(),
        )

    def ids(self, texts: Sequence[str]) -> list[TokenIds]:
        try:  # without panics_as_errors, which takes longer than a short text
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except BaseException as error:
            raise _without_panic(error) from None
        return [array("I", encoding.ids) for encoding in encodings]

    def ids_soon(self, texts: Sequence[str]) -> list[TokenIds]:
        return self.ids(texts)

    def ends(self, text: str) -> list[int]:
        with panics_as_errors():
            (encoding,) = self._tokenizer.encode_batch([text], add_special_tokens=False)
        return [end for _, end in encoding.offsets]

    def decode(self, tokens: TokenIds) -> str:
        with panics_as_errors():
            return self._tokenizer.decode_batch([tokens], skip_special_tokens=False)[0]

    def strings(self, tokens: Sequence[int]) -> list[str | None]:
        return [self._tokenizer.id_to_token(token) for token in tokens]

    def close(self) -> None:
        """Its calls cannot be ended."""

    def _special_tokens_around(self, file: Path) -> tuple[bytes, bytes]:
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
            raise BadModelFile(file, "its post_processor does more than put tokens around a text")
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


def _read(files: TokenizerFiles) -> tuple[bytes, bool]:
    """Returns tokenizer.json as its class uses it, and whether the class is known; raises BadModelFile."""
    try:
        source = files.tokenizer_file.read_bytes().removeprefix(BOM_UTF8)
        if not is_rebuilt(files.tokenizer_class):  # to read and write the whole vocabulary takes as long as to load it
            return source, True
        built = rebuilt(described := json.loads(source), files.tokenizer_class, files.config)
        return (source if built.tokenizer is described else json.dumps(built.tokenizer).encode()), built.known
    except Exception as error:  # in a file of any content, rebuilding may fail in any way
        raise BadModelFile(files.tokenizer_file, error) from None
