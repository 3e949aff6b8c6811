"""The tokenizer of an operator's model: short texts on the event loop, in steps, and long ones in threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor
from contextlib import nullcontext
from functools import partial
from typing import TypeVar

from service.index.base import TokenIds
from service.prompts.tokens.tokenization import (
    STEP_CHARACTERS,
    Known,
    NotKnown,
    Question,
    Steps,
    TextTokenizer,
    finished,
)

_T = TypeVar("_T")

_LONG_TEXT_CHARACTERS = 100_000
_CONCURRENT_LONG_TEXTS = 2
"""Half of the workers, so that short texts do not wait for long ones."""

_MAX_INLINE_CHARACTERS = 16_000
"""Maximum uncached characters that are tokenized on the event loop: the next turn of a chat of 100,000 tokens."""
_MAX_UNCUT_CHARACTERS = STEP_CHARACTERS + 1024
"""Maximum characters of a step there. Numbers and scripts without spaces have few safe places, and take longer."""


class ThreadedTokenizer:
    """A ModelTokenizer."""

    def __init__(self, tokenizer: TextTokenizer, workers: Executor) -> None:
        self.vocabulary_size = tokenizer.vocabulary_size
        self.special_tokens_around = tokenizer.special_tokens_around
        self.is_known_class = tokenizer.is_known_class
        self._tokenizer = tokenizer
        self._workers = workers
        self._long_texts = asyncio.Semaphore(_CONCURRENT_LONG_TEXTS)

    async def encode(self, text: str, *, add_special_tokens: bool, salt: str | None = None) -> TokenIds:
        prefix = self._tokenizer.find_prefix(text, salt)
        uncached = len(text) - prefix.settled_chars
        cancelled = threading.Event()
        steps = partial(
            self._tokenizer.steps, text, add_special_tokens=add_special_tokens, salt=salt, is_cancelled=cancelled.is_set
        )
        try:
            async with self._long_texts if uncached > _LONG_TEXT_CHARACTERS else nullcontext():
                if not self._tokenizer.asks:
                    return await self._end_of(steps(prefix=prefix), uncached)
                questions = self._tokenizer.questions(text, prefix, salt)
                if uncached > _MAX_INLINE_CHARACTERS:
                    return await self._in_thread(
                        lambda: finished(steps(prefix=prefix, known=self._known(questions, cancelled.is_set)))
                    )
                known: dict[str, bytes] = {}
                for question in questions:
                    answers = self._tokenizer.answer_soon(question)
                    if answers is None:
                        answers = await self._in_thread(partial(self._tokenizer.answer, question))
                    known.update(answers)
                return await self._end_of(steps(prefix=prefix, known=known), uncached)
        except NotKnown:  # rather one question for each piece than to begin again and again
            return await self._in_thread(lambda: finished(steps()))
        finally:
            cancelled.set()  # the work of a client that disconnects is cancelled

    def _known(self, questions: Iterator[Question], is_cancelled: Callable[[], bool]) -> Known:
        """Asks all questions, and blocks meanwhile."""
        known: dict[str, bytes] = {}
        for question in questions:
            if is_cancelled():
                raise CancelledError
            known.update(self._tokenizer.answer(question))
        return known

    async def _end_of(self, steps: Steps, uncached: int) -> TokenIds:
        if uncached <= _MAX_INLINE_CHARACTERS and (tokens := await _on_the_loop(steps)) is not None:
            return tokens
        return await self._in_thread(partial(finished, steps))

    async def decode(self, tokens: Sequence[int]) -> str:
        return await self._in_thread(lambda: self._tokenizer.decode(tokens))

    async def strings(self, tokens: Sequence[int]) -> list[str | None]:
        return await self._in_thread(lambda: self._tokenizer.strings(tokens))

    async def reach(self, text: str, tokens: TokenIds, count: int) -> int:
        return await self._in_thread(lambda: self._tokenizer.reach(text, tokens, count))

    def close(self) -> None:
        self._tokenizer.close()

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)


async def _on_the_loop(steps: Steps) -> TokenIds | None:
    """The tokens, with turns for others between the steps; None before a step that is too long for the event loop."""
    try:
        while True:
            if next(steps) > _MAX_UNCUT_CHARACTERS:
                return None
            await asyncio.sleep(0)
    except StopIteration as done:
        tokens: TokenIds = done.value
        return tokens
