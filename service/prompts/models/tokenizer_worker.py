"""The process that loads and uses the tokenizers of strangers' models, and Mistral's renderer with their files."""

from __future__ import annotations

from array import array
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from service.prompts.chat import Chat
from service.prompts.errors import BadModelFile, PromptError
from service.prompts.models.model_files import read_model_files
from service.prompts.renderers.base import MISTRAL, RendererMissing
from service.prompts.renderers.choice import PackageTokenizer, RendererChoice
from service.prompts.tokens.token_cache import TokenCache
from service.prompts.tokens.tokenization import TextTokenizer
from service.prompts.tokens.vocabulary import LoadedVocabulary, panics_as_errors
from service.prompts.workers.serving import serve

MEMORY_BYTES = 1 << 30
_CACHE_BYTES = 32 << 20
_LOADED_TOKENIZERS = 4


class ModelSource(msgspec.Struct, frozen=True):
    """The folder of a model's files, and what decides about its tokenizer."""

    folder: str
    name: str
    renderer: str
    """As chosen by its files."""
    by_salt: bool


class Load(msgspec.Struct, frozen=True, tag=True):
    """Loads the tokenizer; the answer is a Loaded."""

    source: ModelSource


class Loaded(msgspec.Struct, frozen=True):
    """A loaded tokenizer; `bad_file` and `reason`, or `remedy` for a missing package, tell why it cannot be loaded."""

    vocabulary_size: int = 0
    special_tokens_around: tuple[int, int] = (0, 0)
    is_known_class: bool = True
    bad_file: str | None = None
    reason: str = ""
    remedy: str | None = None


class Encode(msgspec.Struct, frozen=True, tag=True):
    """Tokenizes a text; the answer is its tokens, 4 bytes each."""

    source: ModelSource
    text: str
    add_special_tokens: bool
    salt: str | None


class Decode(msgspec.Struct, frozen=True, tag=True):
    """Turns tokens, 4 bytes each, into text."""

    source: ModelSource
    tokens: bytes


class Strings(msgspec.Struct, frozen=True, tag=True):
    """Looks up the vocabulary's entries of tokens."""

    source: ModelSource
    tokens: bytes


class Reach(msgspec.Struct, frozen=True, tag=True):
    """Measures the prefix of a text that the first tokens cover."""

    source: ModelSource
    text: str
    tokens: bytes
    count: int


class Render(msgspec.Struct, frozen=True, tag=True):
    """Renders a chat by the package; the answer is its text and its tokens, 4 bytes each."""

    source: ModelSource
    chat: Chat


Job: TypeAlias = Load | Encode | Decode | Strings | Reach | Render

_jobs = msgspec.msgpack.Decoder(Job)
_encode = msgspec.msgpack.encode


_cache = TokenCache(_CACHE_BYTES)


def main() -> None:
    """Serves until standard input ends."""
    serve(_work, MEMORY_BYTES)


def _work(data: bytes) -> bytes:
    job = _jobs.decode(data)
    try:
        return _done(job)
    except MemoryError:
        _tokenizer.cache_clear()
        return _done(job)


def _done(job: Job) -> bytes:
    match job:
        case Load(source):
            return _encode(_loaded(source))
        case Render(source, chat):
            tokenizer = _tokenizer(source)
            assert isinstance(tokenizer, PackageTokenizer)  # noqa: S101 - the parent asks for no other
            rendered = tokenizer.render(chat)
            return _encode((rendered.text, rendered.tokens.tobytes()))
    tokenizer = _tokenizer(job.source)
    with panics_as_errors():
        return _encode(_answer(tokenizer, job))


def _answer(tokenizer: Any, job: Encode | Decode | Strings | Reach) -> Any:
    match job:
        case Encode(_, text, add_special_tokens, salt):
            return tokenizer.encode(text, add_special_tokens=add_special_tokens, salt=salt).tobytes()
        case Decode(_, tokens):
            return tokenizer.decode(array("I", tokens))
        case Strings(_, tokens):
            return tokenizer.strings(array("I", tokens))
        case Reach(_, text, tokens, count):
            return tokenizer.reach(text, array("I", tokens), count)


def _loaded(source: ModelSource) -> Loaded:
    try:
        tokenizer = _tokenizer(source)
    except BadModelFile as error:
        return Loaded(bad_file=str(error.path), reason=str(error.reason))
    except RendererMissing as error:
        return Loaded(reason=str(error), remedy=error.remedy)
    is_known = not isinstance(tokenizer, TextTokenizer) or tokenizer.is_known_class
    return Loaded(tokenizer.vocabulary_size, tokenizer.special_tokens_around, is_known)


@lru_cache(maxsize=_LOADED_TOKENIZERS)
def _tokenizer(source: ModelSource) -> TextTokenizer | PackageTokenizer:
    folder = Path(source.folder)
    files = read_model_files(folder, source.name, source.renderer)
    try:
        with panics_as_errors():
            if source.renderer == MISTRAL:
                return _package(files.renderer, source)
            return TextTokenizer(LoadedVocabulary(files), _cache)
    except PromptError as error:
        raise BadModelFile(files.tokenizer_file, error.message) from None


def _package(choice: RendererChoice, source: ModelSource) -> PackageTokenizer:
    assert choice.file is not None  # noqa: S101 - as Mistral's renderer has
    return PackageTokenizer(choice.file, TokenCache(0) if source.by_salt else _cache)
