"""The large vocabulary of an operator's model, in a process of its own: the library holds the GIL to load it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.msgpack import Decoder

from service.index.base import TokenIds
from service.prompts.errors import BadModelFile, PromptError
from service.prompts.models.vocabulary_worker import BadFile, Decode, Ends, Ids, Job, Load, Source, Strings
from service.prompts.tokens.base import TokenizerUnavailable
from service.prompts.tokens.vocabulary import Description
from service.prompts.workers.process import WorkerLost, WorkFailed
from service.prompts.workers.shared import SharedProcess

_T = TypeVar("_T")

_THREADS = 4
_LOAD_SECONDS = 120.0
"""Of a slow machine. Any job may have to wait so long: the process may have died."""
_CHARACTERS_PER_SECOND = 20_000
"""Of a slow machine, and of a text that cannot be cut."""
_MAX_SOON_CHARACTERS = 4096

_description = Decoder(Description | BadFile)
_ids: Decoder[list[bytes] | BadFile] = Decoder(list[bytes] | BadFile)
_ends = Decoder(list[int] | BadFile)
_text: Decoder[str | BadFile] = Decoder(str | BadFile)
_strings = Decoder(list[str | None] | BadFile)


class ProcessVocabulary:
    """A Vocabulary. All of its methods but `ids_soon` wait for the process."""

    waits = True

    def __init__(self, process: SharedProcess, source: Source) -> None:
        """`process` runs vocabulary_worker. Raises BadModelFile, PromptError and TokenizerUnavailable."""
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="vocabulary")
        """Where to call the methods: those of other models must not wait while this process starts again."""
        self._process = process
        self._source = source
        self.described: Description = self._ask(Load(source), 0, _description)
        self._digest = self.described.digest

    def ids(self, texts: Sequence[str]) -> list[TokenIds]:
        answer = self._ask(Ids(self._source, self._digest, texts), sum(map(len, texts)), _ids)
        return [array("I", ids) for ids in answer]

    def ids_soon(self, texts: Sequence[str]) -> list[TokenIds] | None:
        if sum(map(len, texts)) > _MAX_SOON_CHARACTERS:
            return None
        try:
            job = msgspec.msgpack.encode(Ids(self._source, self._digest, texts))
        except UnicodeEncodeError:
            return None
        answer = self._process.run_soon(job, _LOAD_SECONDS)
        decoded = None if answer is None else _ids.decode(answer)
        return [array("I", ids) for ids in decoded] if isinstance(decoded, list) else None

    def ends(self, text: str) -> list[int]:
        return self._ask(Ends(self._source, self._digest, text), len(text), _ends)

    def decode(self, tokens: TokenIds) -> str:
        return self._ask(Decode(self._source, self._digest, tokens.tobytes()), len(tokens), _text)

    def strings(self, tokens: Sequence[int]) -> list[str | None]:
        packed = array("I", tokens).tobytes()
        return self._ask(Strings(self._source, self._digest, packed), len(tokens), _strings)

    def close(self) -> None:
        self._process.kill()

    def _ask(self, job: Job, size: int, answers: Decoder[_T | BadFile]) -> _T:
        """`size` is the number of characters or tokens to work on."""
        try:
            request = msgspec.msgpack.encode(job)
            answer = answers.decode(self._process.run(request, _LOAD_SECONDS + size / _CHARACTERS_PER_SECOND))
        except UnicodeEncodeError:
            raise PromptError("the text holds an invalid character (a lone surrogate)") from None
        except WorkerLost as error:
            raise TokenizerUnavailable(str(error)) from None
        except WorkFailed as error:
            raise PromptError(str(error)) from None
        except OSError as error:
            raise TokenizerUnavailable(f"no process can be started for it ({error})") from None
        if not isinstance(answer, BadFile):
            return answer
        if isinstance(job, Load):
            raise BadModelFile(Path(answer.path), answer.reason)
        self._process.warn(reason := f"{answer.path}: {answer.reason}")
        raise TokenizerUnavailable(reason)
