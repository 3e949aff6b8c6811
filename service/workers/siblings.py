"""A worker's questions to the others of its machine, over their Unix sockets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import aiohttp
from yarl import URL

from service.workers.metrics import CounterFile, Family, decode, merged, read_counters
from service.workers.place import Place

if TYPE_CHECKING:
    from prometheus_client import Metric

logger = logging.getLogger(__name__)

REFRESH: Final = "/models/refresh"
_ANSWER_SECONDS: Final = 2.0
_REFRESH_SECONDS: Final = 60.0
_AGAIN_SECONDS: Final = 1.0


class Answer(NamedTuple):
    status: int
    body: bytes


class Siblings:
    """The other workers. One that does not answer within two seconds, as while it starts, is left out."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._others = place.others
        self._sessions: dict[int, aiohttp.ClientSession] = {}
        self._counters = CounterFile(self._counters_of(place.number))

    async def close(self) -> None:
        await asyncio.gather(*(session.close() for session in self._sessions.values()))

    async def ask(
        self, method: str, path: str, body: str | None = None, *, seconds: float = _ANSWER_SECONDS
    ) -> list[bytes]:
        """Asks all others; the bodies of the answers with status 200. `path` is encoded, with its query."""
        answers = await asyncio.gather(*(self._ask(number, method, path, body, seconds) for number in self._others))
        return [answer.body for answer in answers if answer is not None and answer.status == 200]

    def lines(self, path: str) -> list[AsyncIterator[bytes]]:
        """The lines that each of the others streams at a path; asks one that ends, as at a restart, again."""
        return [self._lines(number, path) for number in self._others]

    async def _lines(self, number: int, path: str) -> AsyncIterator[bytes]:
        timeout = aiohttp.ClientTimeout(total=None)
        while True:
            try:
                async with self._session(number).get(f"http://worker{path}", timeout=timeout) as answer:
                    async for line in answer.content:
                        yield line
            except (aiohttp.ClientError, OSError, ValueError) as error:
                logger.debug("worker %d streams no %s: %r", number, path, error)
            await asyncio.sleep(_AGAIN_SECONDS)

    async def refresh(self, model: str) -> None:
        """Lets all others load a model again, if its files have changed."""
        await self.ask("POST", REFRESH, model, seconds=_REFRESH_SECONDS)

    def own_metrics(self, metrics: list[Metric]) -> list[Family]:
        """The metrics of this worker and of its predecessors. Writes a file."""
        return self._counters.with_predecessors([Family.of(metric) for metric in metrics])

    async def metrics(self, own: list[Metric]) -> list[Metric]:
        """The metrics of all workers; of one that does not answer, its last counters."""
        asked = await asyncio.gather(*(self._ask(number, "GET", "/metrics") for number in self._others))
        return await asyncio.to_thread(self._merged, own, asked)

    def _merged(self, own: list[Metric], asked: list[Answer | None]) -> list[Metric]:
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 - takes a while to load

        answering = GaugeMetricFamily("kvcache_workers", "Workers of this machine that answer")
        answering.add_metric([], 1 + sum(answer is not None for answer in asked))
        workers = [self.own_metrics([*own, answering])]
        for number, answer in zip(self._others, asked, strict=True):
            workers.append(decode(answer.body) if answer is not None else read_counters(self._counters_of(number)))
        return [family.metric() for family in merged(workers)]

    def _counters_of(self, number: int) -> Path:
        return self._place.folder / f"counters-{number}"

    def _session(self, number: int) -> aiohttp.ClientSession:
        session = self._sessions.get(number)
        if session is None:
            connector = aiohttp.UnixConnector(str(self._place.socket_of(number)))
            session = self._sessions[number] = aiohttp.ClientSession(connector=connector)
        return session

    async def _ask(
        self, number: int, method: str, path: str, body: str | None = None, seconds: float = _ANSWER_SECONDS
    ) -> Answer | None:
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._session(number).request(
                method, URL(f"http://worker{path}", encoded=True), data=body, timeout=timeout
            ) as answer:
                return Answer(answer.status, await answer.read())
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            logger.warning("worker %d does not answer %s: %r", number, path, error)
            return None
