"""A package's renderer of an operator's model, in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Protocol, TypeVar

from service.index.base import TokenIds
from service.prompts.chat import Chat
from service.prompts.renderers.base import Rendered
from service.prompts.renderers.choice import PackageRenderer, PackageTokenizer

_T = TypeVar("_T")


class ModelRenderer(Protocol):
    """Renders chats without a chat template. Call it on the event loop; the work runs elsewhere."""

    async def render(self, chat: Chat) -> Rendered:
        """Returns the text and tokens of a chat; raises PromptError and TokenizerUnavailable."""
        ...


class ThreadedRenderer:
    """A ModelRenderer."""

    def __init__(self, renderer: PackageRenderer, workers: Executor) -> None:
        self._renderer = renderer
        self._workers = workers

    async def render(self, chat: Chat) -> Rendered:
        return await self._in_thread(lambda: self._renderer.render(chat))

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)


class ThreadedPackage(ThreadedRenderer):
    """A ModelRenderer and a ModelTokenizer."""

    def __init__(self, package: PackageTokenizer, workers: Executor) -> None:
        super().__init__(package, workers)
        self.vocabulary_size = package.vocabulary_size
        self.special_tokens_around = package.special_tokens_around
        self._package = package

    async def encode(self, text: str, *, add_special_tokens: bool, salt: str | None = None) -> TokenIds:
        return await self._in_thread(
            lambda: self._package.encode(text, add_special_tokens=add_special_tokens, salt=salt)
        )

    async def decode(self, tokens: Sequence[int]) -> str:
        return await self._in_thread(lambda: self._package.decode(tokens))

    async def strings(self, tokens: Sequence[int]) -> list[str | None]:
        return await self._in_thread(lambda: self._package.strings(tokens))

    async def reach(self, text: str, tokens: TokenIds, count: int) -> int:
        return await self._in_thread(lambda: self._package.reach(text, tokens, count))

    def close(self) -> None:
        """Nothing is in flight for long."""
