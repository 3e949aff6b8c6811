"""GET /pods as a stream of events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession

from service.contract.endpoints import Endpoint
from service.simulation.publisher import Publisher
from tests.service.conftest import Serve
from tests.service.events.batches import stored
from tests.waiting import PATIENCE

EVENTS = {"Accept": "text/event-stream"}


@asynccontextmanager
async def updates(client: ClientSession) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    async with client.get("/pods", headers=EVENTS) as stream:
        assert (stream.status, stream.content_type) == (200, "text/event-stream")

        async def read() -> AsyncIterator[dict[str, Any]]:
            async with asyncio.timeout(PATIENCE):
                while line := await stream.content.readuntil(b"\n\n"):
                    event, data = line.decode().strip().split("\n")
                    assert event == "event: pods"
                    yield json.loads(data.removeprefix("data: "))

        yield read()


async def first_with(read: AsyncIterator[dict[str, Any]], field: str) -> dict[str, Any]:
    """The next update in which a list is not empty."""
    while not (update := await anext(read))[field]:
        pass
    return update


@pytest.fixture
async def publishers() -> AsyncIterator[list[Publisher]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Publisher(topic=f"kv@{name}:1@m")) for name in "ab"]


async def test_all_pods_are_sent_at_first_and_then_those_that_have_changed(
    serve: Serve, publishers: list[Publisher]
) -> None:
    client = await serve(zmq_endpoint=tuple(Endpoint(one.address) for one in publishers))
    for one in publishers:
        await one.subscribed()
        one.publish(stored(1))
    while True:
        async with updates(client) as read:
            first = await anext(read)
        if first["service"]["events_applied"] == 2:
            break
    async with updates(client) as read:
        first = await anext(read)
        listed = (await (await client.get("/pods")).json())["pods"]
        ages = [rank.pop("last_event_age_seconds") for rank in (*first["pods"], *listed)]
        assert all(0 <= age < PATIENCE for age in ages)
        assert first["pods"] == listed
        assert [rank["events_applied"] for rank in listed] == [1, 1]
        assert first["service"]["events_applied"] == 2
        publishers[0].publish(stored(2))
        later = await first_with(read, "pods")
        assert [(rank["pod"], rank["blocks"]["gpu"]) for rank in later["pods"]] == [("a:1", 2)]
        await client.delete("/pods/b:1")
        assert (await first_with(read, "gone"))["gone"] == [{"pod": "b:1", "model": "m", "rank": 0}]


async def test_pods_of_the_fleet_that_come_change_and_go_are_sent(serve: Serve) -> None:
    client = await serve()
    async with updates(client) as read:
        assert (await anext(read))["fleet"] == []
        await client.post("/pods", json={"url": "http://127.0.0.1:9", "name": "a"})
        assert [pod["name"] for pod in (await first_with(read, "fleet"))["fleet"]] == ["a"]
        await client.patch("/pods/a", json={"draining": True})
        while not any(pod["draining"] for pod in (await first_with(read, "fleet"))["fleet"]):
            pass
        await client.delete("/pods/a")
        assert (await first_with(read, "gone_from_fleet"))["gone_from_fleet"] == ["a"]
