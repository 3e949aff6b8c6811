"""Asks each pod when it joins, after it restarts, and periodically, whether its tokens equal ours."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress

import aiohttp

from service.fleet.parity import Parity, Verdict
from service.fleet.pod_tasks import PodTasks, jittered
from service.fleet.registry import Pod, Registry
from service.parity.comparison import Comparison
from service.prompts.errors import ModelNotFound, ModelUnavailable
from service.prompts.models.catalog import Models
from service.prompts.renderers.engine_api import EngineApi

logger = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS = 2.0
_CONCURRENT_PODS = 2
_ANSWER_SECONDS = 30.0


class ParityWatcher:
    """Keeps `Pod.parity` true. Runs one task per pod, from its addition to its removal.

    `interval` is the time between two comparisons in seconds; an unknown parity is compared again earlier.
    """

    def __init__(
        self, registry: Registry, models: Models, interval: float = 600.0, server_url: str | None = None
    ) -> None:
        """`server_url` is that of a render server, whose tokens are compared with those of the pods."""
        self._server_url = server_url
        self._server_asked: dict[str, float] = {}
        self._registry = registry
        self._models = models
        self._interval = interval
        self._joined: dict[Pod, asyncio.Event] = {}
        self._turns = asyncio.Semaphore(_CONCURRENT_PODS)
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
        self._tasks = PodTasks(registry, self._watch, timeout, "parity")

    def start(self) -> None:
        self._tasks.start()

    async def close(self) -> None:
        await self._tasks.close()

    def joined(self, pod: Pod) -> None:
        """Notes that the pod's engine has started, or started again, and that its models are known."""
        if (event := self._joined.get(pod)) is not None:
            event.set()

    async def _watch(self, pod: Pod, session: aiohttp.ClientSession) -> None:
        joined = self._joined[pod] = asyncio.Event()
        if pod.learned is not None:
            joined.set()
        try:
            await self._keep_comparing(pod, session, joined)
        finally:
            del self._joined[pod]

    async def _keep_comparing(self, pod: Pod, session: aiohttp.ClientSession, joined: asyncio.Event) -> None:
        await joined.wait()
        pause = _FIRST_RETRY_SECONDS
        while True:
            has_joined = joined.is_set()
            joined.clear()
            async with self._turns:
                if has_joined:
                    await self._refresh(pod)
                await self._compare(pod, session)
            if any(parity.verdict is Verdict.UNKNOWN for parity in pod.parity.values()):
                wait, pause = pause, min(2 * pause, self._interval)
            else:
                wait, pause = self._interval, _FIRST_RETRY_SECONDS
            with suppress(TimeoutError):
                async with asyncio.timeout(jittered(wait)):
                    await joined.wait()

    async def _refresh(self, pod: Pod) -> None:
        """An engine that starts takes the latest files of its models from the hub."""
        for model in pod.models:
            if model.parent is None:
                with suppress(ModelNotFound, ModelUnavailable):  # the comparison says so
                    await self._models.refresh(model.id)

    async def _compare(self, pod: Pod, session: aiohttp.ClientSession) -> None:
        served = [model.id for model in pod.models if model.parent is None]
        for gone in pod.parity.keys() - set(served):
            self._registry.set_parity(pod, gone, None)
        api = EngineApi(session, pod.entry.url, pod.key)
        for name in served:
            try:
                parity = await Comparison(api, name, await self._models.get(name)).run()
            except (ModelNotFound, ModelUnavailable) as error:
                parity = Parity(reason=str(error))
            except Exception as error:
                logger.exception("The tokens of %s could not be compared with those of %s", name, pod.name)
                parity = Parity(reason=f"the comparison failed ({type(error).__name__})")
            before = pod.parity.get(name)
            self._registry.set_parity(pod, name, parity)
            await self._ask_server(name, session)
            if before is None or parity != before:
                _log(pod, name, parity)

    async def _ask_server(self, name: str, session: aiohttp.ClientSession) -> None:
        """Asks the render server for the requests that the pods are asked for, unless it was asked a moment ago."""
        now = asyncio.get_running_loop().time()
        if self._server_url is None or now - self._server_asked.get(name, -math.inf) < self._interval / 2:
            return
        try:
            model = await self._models.get(name)
        except (ModelNotFound, ModelUnavailable):
            return
        parity = await Comparison(EngineApi(session, self._server_url), name, model).run()
        if parity.rendered:
            self._server_asked[name] = now
            self._registry.set_server_parity(name, parity)
        if not self._registry.may_ask_server(name):
            logger.warning(
                "The render server %s computes other tokens for %s than its pods do; it is not asked for this model",
                self._server_url,
                name,
            )


def _log(pod: Pod, model: str, parity: Parity) -> None:
    match parity.verdict:
        case Verdict.EQUAL:
            logger.info(
                "Pod %s computes the same tokens for %s as we do (%d requests)", pod.name, model, parity.compared
            )
        case Verdict.DIFFERS:
            at = parity.difference
            logger.warning(
                "Pod %s computes other tokens for %s than we do, for %d of %d requests; the first is %r, from token %d "
                "on: %r here, %r there. %s",
                *(pod.name, model, len(parity.differing), parity.compared),
                *((at.request, at.position, at.here, at.engine) if at is not None else ("", 0, "", "")),
                parity.remedy,
            )
        case Verdict.UNKNOWN:
            logger.warning(
                "Whether pod %s computes the same tokens for %s as we do is not known: %s",
                *(pod.name, model, parity.reason),
            )
