"""Discovers the models and event sources of pods, and checks their health."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from math import inf
from time import monotonic

import aiohttp
from msgspec.structs import replace

from service.fleet.breaker import State
from service.fleet.pod_tasks import PodTasks, jittered
from service.fleet.probe import Probe, ProbeFailed
from service.fleet.registry import Learned, Pod, Registry

logger = logging.getLogger(__name__)
_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 5.0
_MODELS_SECONDS = 30.0
"""Seconds until the models of an engine are read again: it may load LoRA adapters at any time."""
_DOUBT_SECONDS = 1.0
"""The same, if a request names a model that no pod lists."""
_UNHEALTHY_AFTER = 2
"""Consecutive failed health checks after which a pod gets no requests."""

OnLearned = Callable[[Pod], None]


class Monitor:
    """Runs one task per pod, from its addition to its removal.

    `on_learned` is called when the engine's models or event sources become known or change, `on_joined` whenever it
    has started or started again. `interval` is the time between health checks in seconds; before the first answer,
    after a failed check and while the circuit breaker is open, checks are ten times as frequent.
    """

    def __init__(
        self,
        registry: Registry,
        on_learned: OnLearned,
        interval: float = 5.0,
        on_joined: OnLearned = lambda _: None,
    ) -> None:
        self._on_learned = on_learned
        self._on_joined = on_joined
        self._interval = interval
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS, sock_connect=_CONNECT_SECONDS)
        self._tasks = PodTasks(registry, self._watch, timeout, "health")

    def start(self) -> None:
        self._tasks.start()

    async def close(self) -> None:
        await self._tasks.close()

    async def _watch(self, pod: Pod, session: aiohttp.ClientSession) -> None:
        probe = Probe(session)
        failures = 0
        suspected = asyncio.Event()
        read_at, is_doubted, is_failing = -inf, False, False

        def doubted() -> None:
            nonlocal is_doubted
            if monotonic() - read_at >= _DOUBT_SECONDS:
                is_doubted = True
                suspected.set()

        pod.breaker.on_open = suspected.set
        pod.on_doubt = doubted
        while True:
            try:
                await probe.check_health(pod)
                if pod.healthy is not True or pod.learned is None:
                    read_at = monotonic()
                    await self._learn(probe, pod)
                elif is_doubted or monotonic() - read_at >= _MODELS_SECONDS:
                    read_at, is_doubted = monotonic(), False
                    await self._read_models(probe, pod, pod.learned)
            except ProbeFailed as error:
                failures += 1
                self._failed(pod, str(error), failures)
            else:
                failures = 0
                if pod.healthy is not True:
                    logger.info("Pod %s is healthy", pod.name)
                pod.healthy, pod.problem = True, None
                pod.breaker.reachable()
                is_failing = _tell_breaker(pod, is_failing)
            is_well = pod.healthy and not failures and pod.breaker.state is State.CLOSED
            suspected.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(jittered(self._interval if is_well else self._interval / 10)):
                    await suspected.wait()

    async def _learn(self, probe: Probe, pod: Pod) -> None:
        learned = await probe.learn(pod)
        if learned != pod.learned:
            pod.learned = learned
            self._on_learned(pod)
        self._on_joined(pod)

    async def _read_models(self, probe: Probe, pod: Pod, learned: Learned) -> None:
        models = await probe.models(pod)
        if models != learned.models:
            pod.learned = replace(learned, models=models)
            self._on_learned(pod)

    def _failed(self, pod: Pod, problem: str, failures: int) -> None:
        pod.problem = problem
        if failures >= _UNHEALTHY_AFTER or pod.healthy is None:
            if pod.healthy is not False:
                logger.warning("Pod %s is down: %s", pod.name, problem)
            pod.healthy = False


def _tell_breaker(pod: Pod, was_failing: bool) -> bool:
    """Whether requests to a healthy pod fail; logs a change.

    They fail from the opening of the circuit breaker until an answer is complete: it closes when one begins.
    """
    breaker = pod.breaker
    if was_failing and breaker.reason is None:
        logger.info("Pod %s answers requests again", pod.name)
        return False
    if not was_failing and breaker.state is not State.CLOSED:
        logger.warning("Pod %s is healthy, but requests to it fail: %s", pod.name, breaker.reason)
        return True
    return was_failing
