"""A service with pods, for the tests of the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from aiohttp import ClientSession

from service.simulation.server import EngineServer
from tests.service.gateway.scripted import ScriptedEngine
from tests.waiting import PATIENCE

CHAT = "/v1/chat/completions"


class Routed:
    """A client of a service, and the engines that it forwards to."""

    def __init__(self, client: ClientSession, engines: Sequence[EngineServer]) -> None:
        self.client = client
        self.engines = engines

    async def pods(self) -> dict[str, dict[str, Any]]:
        """The fleet as GET /pods shows it, by name."""
        return {pod["name"]: pod for pod in (await (await self.client.get("/pods")).json())["fleet"]}

    async def sources(self) -> list[dict[str, Any]]:
        """The sources of pods as GET /pods shows them."""
        found: list[dict[str, Any]] = (await (await self.client.get("/pods")).json())["discovery"]
        return found

    async def until_sources(self, holds: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Waits until something holds for the sources of pods."""
        async with asyncio.timeout(PATIENCE):
            sources = await self.sources()
            while not holds(sources):
                await asyncio.sleep(0.01)
                sources = await self.sources()

    async def until_pods(self, holds: Callable[[dict[str, dict[str, Any]]], bool]) -> None:
        """Waits until something holds for the fleet."""
        async with asyncio.timeout(PATIENCE):
            pods = await self.pods()
            while not holds(pods):
                await asyncio.sleep(0.01)
                pods = await self.pods()

    async def until_healthy(self, count: int) -> None:
        """Waits until so many pods are healthy, and their events are received."""
        await self.until_pods(lambda pods: sum(bool(pod["healthy"]) for pod in pods.values()) == count)
        async with asyncio.timeout(PATIENCE):
            for engine in self.engines:
                for rank in engine.ranks:
                    await rank.publisher.subscribed()

    async def until_applied(self, engine: EngineServer) -> None:
        """Waits until the service has applied all events of an engine."""
        expected = {number: rank.publisher.sequence - 1 for number, rank in enumerate(engine.ranks)}
        async with asyncio.timeout(PATIENCE):
            while True:
                await asyncio.sleep(0.002)
                ranks = (await (await self.client.get("/pods")).json())["pods"]
                applied = {rank["rank"]: rank["last_sequence"] for rank in ranks if rank["pod"] == engine.pod}
                if all(applied.get(number) == last for number, last in expected.items() if last >= 0):
                    return


Route: TypeAlias = Callable[..., Awaitable[Routed]]
Before: TypeAlias = Callable[..., Awaitable[tuple[Routed, list[ScriptedEngine]]]]
