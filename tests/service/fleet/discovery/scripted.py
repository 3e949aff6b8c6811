"""A source that names what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from service.contract.pods import parse_pods
from service.fleet.discovery.base import Found, Present, SourceFailed


class ScriptedSource:
    """Yields what the test puts into it; fails for an error."""

    def __init__(self, name: str = "scripted") -> None:
        self.name = name
        self._answers: asyncio.Queue[Present | Exception] = asyncio.Queue()

    def names(self, *pods: str, draining: bool = False, problem: str | None = None) -> None:
        """The source names these pods from here on, in the form of `--pod`."""
        self._answers.put_nowait(Present(tuple(Found(parse_pods(pod)[0], draining) for pod in pods), problem))

    def fails(self, error: str | Exception) -> None:
        self._answers.put_nowait(SourceFailed(error) if isinstance(error, str) else error)

    async def watch(self) -> AsyncGenerator[Present, None]:
        while True:
            answer = await self._answers.get()
            if isinstance(answer, Exception):
                raise answer
            yield answer
