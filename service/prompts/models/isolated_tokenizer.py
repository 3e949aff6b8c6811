"""The tokenizer of a stranger's model: loaded and used in a process that is bounded in memory and time."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from service.index.base import TokenIds
from service.prompts.chat import Chat
from service.prompts.errors import BadModelFile, ModelUnavailable, PromptError
from service.prompts.models.tokenizer_worker import (
    Decode,
    Encode,
    Job,
    Load,
    Loaded,
    ModelSource,
    Reach,
    Render,
    Strings,
)
from service.prompts.renderers.base import Rendered
from service.prompts.tokens.base import TokenizerUnavailable
from service.prompts.workers.pool import WorkerPool, WorkersBusy
from service.prompts.workers.process import WorkerLost, WorkerProcess, WorkerTimedOut, WorkFailed

WORKER: Final = "service.prompts.models.tokenizer_worker"
PROCESSES: Final = 2

_LOAD_SECONDS = 20.0
_CHARACTERS_PER_SECOND = 200_000
"""Of a slow machine; a text may take so much longer than the timeout."""
_MAX_ANSWER_BYTES = 64 << 20
_MAX_LOADED_BYTES = 1 << 16
_REMEDY = "Ask for another model, or name it in MODELS: the operator's models have no such limit"


class IsolatedTokenizer:
    """A ModelTokenizer, and a ModelRenderer for Mistral's own format."""

    def __init__(self, pool: WorkerPool, source: ModelSource, loaded: Loaded, seconds: float) -> None:
        """`seconds` is the timeout for a short text."""
        self.vocabulary_size = loaded.vocabulary_size
        self.special_tokens_around = loaded.special_tokens_around
        self.is_known_class = loaded.is_known_class
        self._pool = pool
        self._source = source
        self._seconds = seconds

    @classmethod
    async def load(cls, pool: WorkerPool, source: ModelSource, seconds: float) -> IsolatedTokenizer:
        """Raises BadModelFile, and ModelUnavailable if its loading exceeds a limit."""
        try:
            answer = await pool.run(lambda process: _load(process, source), _LOAD_SECONDS)
        except WorkFailed as error:
            raise ModelUnavailable(source.name, f"its tokenizer cannot be loaded: {error}", _REMEDY) from None
        except WorkersBusy as error:
            raise ModelUnavailable(source.name, f"its tokenizer cannot be loaded: {error}", "Try again") from None
        loaded = msgspec.msgpack.decode(answer, type=Loaded)
        if loaded.bad_file is not None:
            raise BadModelFile(Path(loaded.bad_file), loaded.reason)
        if loaded.remedy is not None:
            reason = f"its prompts are rendered by {source.renderer}: {loaded.reason}"
            raise ModelUnavailable(source.name, reason, loaded.remedy)
        return cls(pool, source, loaded, seconds)

    async def encode(self, text: str, *, add_special_tokens: bool, salt: str | None = None) -> TokenIds:
        return array("I", await self._ask(Encode(self._source, text, add_special_tokens, salt), len(text)))

    async def decode(self, tokens: Sequence[int]) -> str:
        return str(await self._ask(Decode(self._source, _packed(tokens)), len(tokens)))

    async def strings(self, tokens: Sequence[int]) -> list[str | None]:
        return msgspec.convert(await self._ask(Strings(self._source, _packed(tokens)), len(tokens)), list[str | None])

    async def reach(self, text: str, tokens: TokenIds, count: int) -> int:
        return int(await self._ask(Reach(self._source, text, tokens.tobytes(), count), len(text)))

    async def render(self, chat: Chat) -> Rendered:
        """Returns the text and tokens of a chat; raises PromptError and TokenizerUnavailable."""
        text, tokens = await self._ask(Render(self._source, chat), 0)
        return Rendered(text, array("I", tokens))

    def close(self) -> None:
        """The pool cancels the work in flight."""

    async def _ask(self, job: Job, size: int) -> Any:
        """`size` is the number of characters or tokens to work on."""
        seconds = self._seconds + size / _CHARACTERS_PER_SECOND
        try:
            try:
                return await self._answer(job, seconds)
            except WorkerTimedOut:
                raise
            except WorkerLost:
                # The process may have died of the memory that other models took.
                return await self._answer(job, seconds)
        except UnicodeEncodeError:
            raise PromptError("the text holds an invalid character (a lone surrogate)") from None
        except (OverflowError, RecursionError) as error:
            raise PromptError(f"the request cannot be passed to the model's tokenizer: {error}") from None
        except WorkFailed as error:
            raise PromptError(f"the model's tokenizer fails: {error}") from None
        except WorkersBusy as error:
            raise TokenizerUnavailable(str(error)) from None

    async def _answer(self, job: Job, seconds: float) -> Any:
        def work(process: WorkerProcess) -> bytes:
            request = msgspec.msgpack.encode(job)
            _load(process, self._source)  # at once, if it is there
            return process.run(request, seconds, _MAX_ANSWER_BYTES)

        return msgspec.msgpack.decode(await self._pool.run(work, seconds))


def _load(process: WorkerProcess, source: ModelSource) -> bytes:
    return process.run(msgspec.msgpack.encode(Load(source)), _LOAD_SECONDS, _MAX_LOADED_BYTES)


def _packed(tokens: Sequence[int]) -> bytes:
    try:
        return array("I", tokens).tobytes()
    except (OverflowError, TypeError):
        raise PromptError("tokens must be whole numbers of 0 or more", "tokens") from None
