"""Clients that leave, at any moment of their request."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

import pytest

from service.api.admission import Reservation as AdmissionReservation
from service.gateway.connection import EngineConnection
from service.gateway.engine_request import EngineRequest
from service.gateway.relay import Relay
from service.gateway.retries import Exchange
from service.routing.reservations import Reservation as RoutingReservation
from service.simulation.faults import Fault
from service.simulation.scheduler import Speed
from tests.service.conftest import port_of
from tests.service.engines import chat
from tests.service.gateway.routed import CHAT, Route, Routed
from tests.tries import tries
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


async def leave_at_random(routed: Routed, number: int) -> None:
    """Asks and leaves: within the request, some turns of the event loop later, some bytes later, or at the end."""
    random = Random(number)
    stream = random.random() < 0.6
    body = json.dumps(chat(f"Hello {number}", stream=stream, max_tokens=20)).encode()
    request = b"POST %b HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body)
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(routed.client))
    match random.randrange(10):
        case 0:
            writer.write(request[: random.randrange(len(request))])
        case 1 | 2 | 3 | 4:
            writer.write(request)
            for _ in range(random.randrange(200)):
                await asyncio.sleep(0)
        case 5 | 6 | 7 | 8:
            writer.write(request)
            await reader.read(random.randrange(1, 4000))
        case _:
            writer.write(request)
            await reader.readuntil(b"[DONE]" if stream else b"}]")
    if random.random() < 0.5:
        writer.transport.abort()
    else:
        writer.close()


@pytest.fixture
def only_new_objects() -> Iterator[None]:
    """Hides the million objects of before from the garbage collector, which otherwise looks at each of them."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def left_over() -> Counter[str]:
    """What chats need as long as they run, and the connections to engines, by the name of their types."""
    gc.collect()
    kinds = (Exchange, Relay, EngineConnection, RoutingReservation, AdmissionReservation, EngineRequest)
    return Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, kinds))


@pytest.mark.usefixtures("only_new_objects")
async def test_clients_that_leave_at_random_moments_leave_nothing_behind(route: Route) -> None:
    routed = await route(2, speed=Speed(decode_seconds=0.001), kept_requests=0)
    assert not left_over()
    numbers = iter(range(tries(80, 300)))

    async def one_after_the_other() -> None:
        for number in numbers:
            await leave_at_random(routed, number)

    async with asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(one_after_the_other())
    await routed.until_pods(lambda pods: not any(pod["in_flight"] for pod in pods.values()))
    await until(lambda: not any(engine.in_flight for engine in routed.engines))
    async with routed.client.post(CHAT, json=chat("Hello"), headers={"Connection": "close"}) as response:
        assert response.status == 200
    async with routed.client.get("/metrics") as response:
        metrics = await response.text()
    assert "kvcache_http_bytes_in_flight 0.0" in metrics
    await until(lambda: not left_over())
