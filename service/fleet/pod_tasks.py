"""Tasks that follow each pod of the registry, each with an HTTP session of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, TypeAlias

import aiohttp

from service.fleet.registry import Pod, Registry

_JITTER = 0.1
_random = Random()  # noqa: S311 - only spreads pauses

Follow: TypeAlias = Callable[[Pod, aiohttp.ClientSession], Coroutine[Any, Any, None]]


class PodTasks:
    """Runs `follow` for each pod, from its addition to its removal. `name` is that of the tasks."""

    def __init__(self, registry: Registry, follow: Follow, timeout: aiohttp.ClientTimeout, name: str) -> None:
        self._registry = registry
        self._follow = follow
        self._timeout = timeout
        self._name = name
        self._tasks: dict[Pod, asyncio.Task[None]] = {}

    def start(self) -> None:
        def changed(pod: Pod, is_there: bool) -> None:
            if is_there:
                self._tasks[pod] = asyncio.create_task(self._run(pod), name=f"{self._name} of {pod.name}")
            elif (task := self._tasks.pop(pod, None)) is not None:
                task.cancel()

        self._registry.watch(changed)

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, pod: Pod) -> None:
        async with aiohttp.ClientSession(timeout=self._timeout) as session:
            await self._follow(pod, session)


def jittered(seconds: float) -> float:
    """A pause of about this length, so that not all pods are asked at once."""
    return seconds * _random.uniform(1 - _JITTER, 1 + _JITTER)
