"""Discovers the models and event sources of pods, checks their health and reads their load."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import Random

import aiohttp

from service.fleet.probe import Probe, ProbeFailed
from service.fleet.registry import Pod, Registry

logger = logging.getLogger(__name__)
_JITTER = 0.1
_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 5.0
_UNHEALTHY_AFTER = 2
"""Consecutive failed health checks after which a pod gets no requests."""

OnLearned = Callable[[Pod], None]


class Monitor:
    """Runs one task per pod, from its addition to its removal.

    `on_learned` is called when the engine's models or event sources become known or change, `on_joined` whenever it
    has started or started again. `interval` is the time between health checks in seconds; before the first answer and
    while the engine is down, checks are ten times as frequent.
    """

    def __init__(
        self,
        registry: Registry,
        on_learned: OnLearned,
        interval: float = 5.0,
        on_joined: OnLearned = lambda _: None,
    ) -> None:
        self._registry = registry
        self._on_learned = on_learned
        self._on_joined = on_joined
        self._interval = interval
        self._tasks: dict[Pod, asyncio.Task[None]] = {}
        self._random = Random()  # noqa: S311 - only spreads the checks
        self._session: aiohttp.ClientSession | None = None

    def start(self) -> None:
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS, sock_connect=_CONNECT_SECONDS)
        self._session = aiohttp.ClientSession(timeout=timeout)
        self._registry.watch(self._changed)

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _changed(self, pod: Pod, is_there: bool) -> None:
        if is_there:
            self._tasks[pod] = asyncio.create_task(self._watch(pod), name=f"monitor of {pod.name}")
        elif (task := self._tasks.pop(pod, None)) is not None:
            task.cancel()

    async def _watch(self, pod: Pod) -> None:
        assert self._session is not None  # noqa: S101 - tasks begin after start
        probe = Probe(self._session)
        failures = 0
        while True:
            try:
                await probe.check_health(pod)
                if pod.healthy is not True or pod.learned is None:
                    await self._learn(probe, pod)
                pod.load = await probe.load(pod)
            except ProbeFailed as error:
                failures += 1
                self._failed(pod, str(error), failures)
            else:
                failures = 0
                if pod.healthy is not True:
                    logger.info("Pod %s is healthy", pod.name)
                pod.healthy, pod.problem = True, None
                pod.breaker.reachable()
            pause = self._interval if pod.healthy else self._interval / 10
            await asyncio.sleep(pause * self._random.uniform(1 - _JITTER, 1 + _JITTER))

    async def _learn(self, probe: Probe, pod: Pod) -> None:
        learned = await probe.learn(pod)
        if learned != pod.learned:
            pod.learned = learned
            self._on_learned(pod)
        self._on_joined(pod)

    def _failed(self, pod: Pod, problem: str, failures: int) -> None:
        pod.problem = problem
        if failures >= _UNHEALTHY_AFTER or pod.healthy is None:
            if pod.healthy is not False:
                logger.warning("Pod %s is down: %s", pod.name, problem)
            pod.healthy = False
