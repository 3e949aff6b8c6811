"""The process that loads and uses one large vocabulary of an operator's model."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import msgspec

from service.prompts.errors import BadModelFile
from service.prompts.models.model_files import read_model_files
from service.prompts.tokens.vocabulary import Description, LoadedVocabulary
from service.prompts.workers.serving import serve


class Source(msgspec.Struct, frozen=True):
    """Where the files of a model are, and its name, which may decide about its tokenizer's class."""

    folder: str
    name: str
    renderer: str


class Load(msgspec.Struct, frozen=True, tag=True):
    """Loads the vocabulary; the answer is its Description, or a BadFile."""

    source: Source


class Ids(msgspec.Struct, frozen=True, tag=True):
    """Tokenizes texts; the answer is the tokens of each, 4 bytes each."""

    source: Source
    digest: bytes
    texts: Sequence[str]


class Ends(msgspec.Struct, frozen=True, tag=True):
    """Finds the end of each token of a text, in characters."""

    source: Source
    digest: bytes
    text: str


class Decode(msgspec.Struct, frozen=True, tag=True):
    """Turns tokens, 4 bytes each, into text."""

    source: Source
    digest: bytes
    tokens: bytes


class Strings(msgspec.Struct, frozen=True, tag=True):
    """Looks up the vocabulary's entries of tokens."""

    source: Source
    digest: bytes
    tokens: bytes


class BadFile(msgspec.Struct, frozen=True, tag=True):
    """The answer if the files cannot be used, or are no longer those of the digest."""

    path: str
    reason: str


Job: TypeAlias = Load | Ids | Ends | Decode | Strings

_jobs = msgspec.msgpack.Decoder(Job)


def main() -> None:
    """Serves until standard input ends."""
    serve(_work)


def _work(data: bytes) -> bytes:
    try:
        answer = _answer(_jobs.decode(data))
    except BadModelFile as error:
        answer = BadFile(str(error.path), str(error.reason))
    return msgspec.msgpack.encode(answer)


def _answer(job: Job) -> Description | BadFile | list[bytes] | str | list[int] | list[str | None]:
    vocabulary = _vocabulary(job.source)
    if isinstance(job, Load):
        return vocabulary.described
    if job.digest != vocabulary.described.digest:
        reason = "its files have changed since they were loaded; POST /models/refresh loads them again"
        return BadFile(job.source.folder, reason)
    match job:
        case Ids(texts=texts):
            return [ids.tobytes() for ids in vocabulary.ids(texts)]
        case Ends(text=text):
            return vocabulary.ends(text)
        case Decode(tokens=tokens):
            return vocabulary.decode(array("I", tokens))
        case Strings(tokens=tokens):
            return vocabulary.strings(array("I", tokens))


@lru_cache(maxsize=1)
def _vocabulary(source: Source) -> LoadedVocabulary:
    return LoadedVocabulary(read_model_files(Path(source.folder), source.name, source.renderer))
