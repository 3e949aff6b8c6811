"""Clients that leave, at any moment of their request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from service.simulation.faults import Fault
from service.simulation.scheduler import Speed
from tests.service.conftest import port_of
from tests.service.engines import chat
from tests.service.gateway.routed import CHAT, Route, Routed
from tests.waiting import until

MAX_TURNS = 50
"""Turns of the event loop, which client, service and engine share. No timer of theirs is due within so few."""


async def turns_until(condition: Callable[[], bool]) -> int:
    """How often the event loop turns until a condition holds."""
    turns = 0
    while not condition():
        turns += 1
        assert turns <= MAX_TURNS
        await asyncio.sleep(0)
    return turns


async def asking(routed: Routed, *, stream: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    body = json.dumps(chat("Hello", stream=stream, max_tokens=20)).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(routed.client))
    head = b"POST %b HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % (CHAT.encode(), len(body))
    writer.write(head + body)
    return reader, writer


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("moment", ["mid-stream", "plain", "before the first byte", "before the head"])
async def test_the_engine_hears_within_a_few_turns_of_the_loop_that_a_client_left(
    route: Route, moment: str, how: str
) -> None:
    seconds = 0.01 if moment == "mid-stream" else 3600.0
    routed = await route(1, speed=Speed(decode_seconds=seconds), settings={"health_interval": 3600.0})
    (engine,) = routed.engines
    if moment == "mid-stream":
        engine.faults.add(Fault("stall", after=2))
    if moment == "before the head":
        engine.faults.add(Fault("hang"))
    reader, writer = await asking(routed, stream=moment != "plain")
    if moment == "mid-stream":
        await reader.readuntil(b"data: ")
    await until(lambda: engine.in_flight == 1 or (moment == "before the head" and bool(engine.requests)))
    if how == "abort":
        writer.transport.abort()
    else:
        writer.close()
    await turns_until(lambda: engine.aborted == 1)
    await until(lambda: engine.in_flight == 0)
    assert (await routed.pods())[engine.pod]["in_flight"] == 0


async def test_a_client_that_leaves_within_its_body_never_reaches_an_engine(route: Route) -> None:
    routed = await route(1)
    _, writer = await asyncio.open_connection("127.0.0.1", port_of(routed.client))
    writer.write(b"POST %b HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n{" % CHAT.encode())
    await writer.drain()
    writer.close()
    async with routed.client.post(CHAT, json=chat("Hello")) as response:
        assert response.status == 200
    assert len(routed.engines[0].requests) == 1
