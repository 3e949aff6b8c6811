"""Requests that wait for a pod below its limit."""

from __future__ import annotations

import asyncio
import gc
import weakref
from heapq import heappop
from typing import Any

import pytest

from service.gateway import queue as queue_module
from service.gateway.queue import Queue
from service.routing.choice import Choice
from service.simulation.faults import Fault
from service.simulation.scheduler import Speed
from tests.service.engines import StartEngine, chat
from tests.service.gateway.routed import CHAT, Route
from tests.service.routing.fleets import Fleet
from tests.waiting import PATIENCE, until

LIMITED: dict[str, Any] = {"max_in_flight_per_pod": 1, "queue_length": 4, "queue_seconds": 60.0}


class Places:
    """A number of free places, which are given to who asks first."""

    def __init__(self) -> None:
        self.fleet = Fleet(1)
        self.free = 0
        self.given: list[str] = []

    def wait_in(self, queue: Queue, name: str, estimate: float, model: str = "m") -> asyncio.Task[Choice | None]:
        def choose() -> Choice | None:
            if not self.free:
                return None
            self.free -= 1
            self.given.append(name)
            return self.fleet.choose()

        return asyncio.ensure_future(queue.turn(model, estimate, choose))


async def test_the_shortest_estimate_is_served_first() -> None:
    queue, places = Queue(10, 60.0), Places()
    turns = [places.wait_in(queue, str(seconds), seconds) for seconds in (30, 10, 20)]
    await asyncio.sleep(0)
    places.free = 3
    queue.wake()
    await asyncio.gather(*turns)
    assert places.given == ["10", "20", "30"]
    assert len(queue) == 0


async def test_a_request_that_has_waited_for_longer_than_another_is_shorter_comes_first() -> None:
    queue, places = Queue(10, 60.0), Places()
    early = places.wait_in(queue, "early and long", 0.002)
    await asyncio.sleep(0)
    started = asyncio.get_running_loop().time()
    await until(lambda: asyncio.get_running_loop().time() > started + 0.01)
    late = places.wait_in(queue, "late and short", 0.0)
    await asyncio.sleep(0)
    places.free = 2
    queue.wake()
    await asyncio.gather(early, late)
    assert places.given == ["early and long", "late and short"]


async def test_who_waits_too_long_gets_no_place() -> None:
    queue, places = Queue(10, 0.01), Places()
    assert await places.wait_in(queue, "a", 0) is None
    assert len(queue) == 0


async def test_a_client_that_leaves_leaves_no_reservation() -> None:
    queue, places = Queue(10, 60.0), Places()
    turn = places.wait_in(queue, "a", 0)
    await asyncio.sleep(0)
    places.free = 1
    queue.wake()
    await asyncio.sleep(0)
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert places.fleet.pods[0].in_flight == 0
    assert len(queue) == 0


async def test_places_go_to_the_first_of_all_models() -> None:
    queue, places = Queue(10, 60.0), Places()
    turns = [places.wait_in(queue, f"{model}{seconds}", seconds, model) for model in "mn" for seconds in (10, 20)]
    turns.append(places.wait_in(queue, "n0", 0, "n"))
    await asyncio.sleep(0)
    for free in (1, 2, 2):
        places.free = free
        queue.wake()
        await asyncio.sleep(0)
    await asyncio.gather(*turns)
    assert places.given == ["n0", "m10", "n10", "m20", "n20"]
    assert not any(map(queue.waits, "mn"))


async def test_one_more_does_not_cost_the_work_of_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, places = Queue(1000, 60.0), Places()
    turns = [places.wait_in(queue, str(seconds), seconds) for seconds in range(500)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    popped: list[object] = []

    def pop(heap: list[Any]) -> object:
        popped.append(heap)
        return heappop(heap)

    monkeypatch.setattr(queue_module, "heappop", pop)
    turns.append(places.wait_in(queue, "one more", 600))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(queue) == 501
    assert len(popped) == 1
    for turn in turns:
        turn.cancel()
    await asyncio.gather(*turns, return_exceptions=True)


async def test_those_who_leave_are_not_kept_behind_one_who_waits() -> None:
    queue, places = Queue(10, 60.0), Places()
    first = places.wait_in(queue, "first", 0)
    kept = []
    for _ in range(20):
        request = Places()
        kept.append(weakref.ref(request))
        turn = request.wait_in(queue, "leaves", 10)
        del request
        await asyncio.sleep(0)
        turn.cancel()
        await asyncio.gather(turn, return_exceptions=True)
        del turn
    gc.collect()
    assert sum(request() is not None for request in kept) < 3
    assert len(queue) == 1
    places.free = 1
    queue.wake()
    assert await first is not None


async def test_requests_beyond_the_limit_wait_and_are_answered(route: Route) -> None:
    routed = await route(1, settings=LIMITED, speed=Speed(decode_seconds=0.005))

    async def ask(number: int) -> int:
        async with routed.client.post(CHAT, json=chat(f"Question {number}", max_tokens=4)) as response:
            await response.read()
            return response.status

    assert await asyncio.gather(*(ask(number) for number in range(5))) == [200] * 5
    assert routed.engines[0].in_flight == 0


@pytest.mark.parametrize("queue_length", [4, 1])
async def test_a_request_does_not_take_the_place_of_one_that_waits(
    route: Route, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch, queue_length: int
) -> None:
    monkeypatch.setattr(queue_module, "_RETRY_SECONDS", 3600.0)
    routed = await route(1, settings={**LIMITED, "queue_length": queue_length})
    (engine,) = routed.engines
    engine.faults.add(Fault("hang"))
    answered = []

    async def ask(name: str) -> None:
        async with routed.client.post(CHAT, json=chat(name, max_tokens=2)) as response:
            assert response.status == 200
            answered.append(name)

    hanging = asyncio.ensure_future(ask("hanging"))
    await until(lambda: bool(engine.requests))
    first = asyncio.ensure_future(ask("first"))
    metrics = ""
    async with asyncio.timeout(PATIENCE):
        while "kvcache_gateway_queued_requests 1.0" not in metrics:
            metrics = await (await routed.client.get("/metrics")).text()
    another = await start_engine()
    async with routed.client.post("/pods", json={"url": another.url}) as response:
        assert response.status == 201, await response.text()
    await routed.until_pods(lambda pods: len(pods) == 2 and all(pod["healthy"] for pod in pods.values()))
    await asyncio.gather(first, ask("second"))
    assert answered == ["first", "second"]
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)


async def test_requests_beyond_the_queue_are_refused_at_once(route: Route) -> None:
    routed = await route(1, settings={**LIMITED, "queue_length": 1}, speed=Speed(decode_seconds=60.0))

    async def ask() -> int:
        async with routed.client.post(CHAT, json=chat("Question", max_tokens=4)) as response:
            return response.status

    running = asyncio.ensure_future(ask())
    await until(lambda: routed.engines[0].in_flight == 1)
    several = [asyncio.ensure_future(ask()) for _ in range(3)]
    done, waiting = await asyncio.wait(several, return_when=asyncio.FIRST_COMPLETED)
    while len(done) < 2:
        more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        done |= more
    assert [task.result() for task in done] == [503, 503]
    metrics = await (await routed.client.get("/metrics")).text()
    assert "kvcache_gateway_queued_requests 1.0" in metrics
    for task in (running, *waiting):
        task.cancel()
    await asyncio.gather(running, *waiting, return_exceptions=True)
    await routed.until_pods(lambda pods: not any(pod["in_flight"] for pod in pods.values()))
