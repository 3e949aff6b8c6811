"""Writes down what engines publish, in order: live, and from their replay sockets what was missed."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import zmq

from service.contract.endpoints import Endpoint
from service.events.recording import Recorded, recorded_pod
from service.events.replay import ReplayError, ask
from service.events.stream import Arrival, Stream, Verdict, arrival
from service.events.subscription import Message, Subscription
from service.events.topic import read_topic
from service.events.wire import WireError
from service.index.base import Rank


@dataclass(slots=True)
class RecorderStatistics:
    """What was recorded: messages by pod, how many of them came from replay sockets, and what could not be had."""

    messages: Counter[str] = field(default_factory=Counter)
    replayed: int = 0
    missing: int = 0
    restarts: int = 0
    unreadable: int = 0
    """Messages that are recorded though no batch can be read from them, or are no messages at all."""
    replay_failures: int = 0


@dataclass(slots=True, eq=False)
class _Heard:
    """One publisher, and the live messages that wait while its replay socket is asked."""

    stream: Stream
    topic: bytes
    waiting: deque[tuple[Message, Arrival]] = field(default_factory=deque)


class Recorder:
    """Subscribes as the service does, and gives `write` each message once, every publisher's in its order.

    Asks a replay socket for what was published before and for what was missed; what no replay brings is counted.
    `model` is the model of topics that name none. `ended` is done when `write` gives False, since it wants no more, or
    raises OSError.
    """

    def __init__(
        self, endpoints: Iterable[Endpoint], topic: str, model: str, write: Callable[[Recorded], bool]
    ) -> None:
        self.statistics = RecorderStatistics()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._model = model
        self._write = write
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        turns = asyncio.Semaphore()
        self._subscriptions = [
            Subscription(self._context, endpoint, topic, self, turns=turns) for endpoint in endpoints
        ]
        self._heard: dict[tuple[str, Rank], _Heard] = {}
        self._asking: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Opens the sockets; those that cannot be opened are `problems`."""
        for subscription in self._subscriptions:
            subscription.open()

    def problems(self) -> list[str]:
        return [subscription.problem for subscription in self._subscriptions if subscription.problem]

    async def close(self) -> None:
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)
        for subscription in self._subscriptions:
            await subscription.close()
        self._context.destroy(linger=0)

    def received(self, subscription: Subscription, message: Message) -> None:
        self._received(subscription, message)

    def _received(self, subscription: Subscription, message: Message, *, replayed: bool = False) -> None:
        """Takes a message. What is replayed may be known: that its connection was lost since makes it no restart."""
        if self.ended.done():
            return
        endpoint = subscription.endpoint
        pod, model = read_topic(message.topic, endpoint, self._model, message.peer)
        try:
            arrived = arrival(message.sequence, message.payload)
        except WireError:
            self.statistics.unreadable += 1
            self._record(pod, message)
            return
        rank = Rank(pod, model, arrived.batch.rank)
        heard = self._heard.get((endpoint.address, rank))
        if heard is None:
            heard = _Heard(Stream(rank, endpoint.address, endpoint.replay), message.topic)
            self._heard[endpoint.address, rank] = heard
        if not (replayed and heard.stream.knows(arrived)):
            self._take(heard, message, arrived)

    def malformed(self, subscription: Subscription) -> None:
        self.statistics.unreadable += 1

    def connected(self, subscription: Subscription) -> None:
        if subscription.endpoint.replay is None:
            return
        known = [heard for (address, _), heard in self._heard.items() if address == subscription.endpoint.address]
        for heard in known:
            self._catch_up(heard)
        if not known:
            self._run(self._greet(subscription, subscription.endpoint.replay))

    def disconnected(self, subscription: Subscription, connection: int) -> None:
        for (address, _), heard in self._heard.items():
            heard.stream.reconnected |= address == subscription.endpoint.address

    def _take(self, heard: _Heard, message: Message, arrived: Arrival) -> None:
        stream = heard.stream
        if stream.asking:
            heard.waiting.append((message, arrived))
            return
        verdict = stream.judge(arrived)
        if verdict is Verdict.RESTARTED:
            self._restart(stream)
            verdict = stream.judge(arrived)
        if verdict is Verdict.GAP and stream.replay is not None:
            heard.waiting.append((message, arrived))
            self._catch_up(heard)
        elif verdict is not Verdict.REPEATED:
            self._accept(heard, message, arrived)

    def _accept(self, heard: _Heard, message: Message, arrived: Arrival) -> None:
        self.statistics.missing += arrived.sequence - heard.stream.next
        self._record(recorded_pod(heard.stream.rank), message)
        heard.stream.advance(arrived)

    def _record(self, pod: str, message: Message) -> None:
        if self.ended.done():
            return
        try:
            more = self._write(Recorded(pod, message.topic, message.sequence, message.payload))
        except OSError as error:
            self.ended.set_exception(error)
            return
        self.statistics.messages[pod] += 1
        if not more:
            self.ended.set_result(None)

    def _restart(self, stream: Stream) -> None:
        self.statistics.restarts += 1
        stream.restart()

    def _catch_up(self, heard: _Heard) -> None:
        if not heard.stream.asking:
            heard.stream.asking = True
            self._run(self._replay(heard))

    async def _greet(self, subscription: Subscription, address: str) -> None:
        """Takes what a publisher that nobody has heard yet still has. One that does not say its topic is waited for."""
        try:
            async with aclosing(ask(self._context, address, 0)) as replies:
                async for replayed in replies:
                    if replayed.topic is None:
                        return
                    if subscription.wants(replayed.topic):
                        before = self.statistics.messages.total()
                        message = Message(replayed.topic, replayed.sequence, replayed.payload)
                        self._received(subscription, message, replayed=True)
                        self.statistics.replayed += self.statistics.messages.total() - before
        except ReplayError:
            self.statistics.replay_failures += 1

    async def _replay(self, heard: _Heard) -> None:
        """Fills a gap, then takes the live messages that waited; what is still missing between them is counted."""
        stream = heard.stream
        try:
            if not await self._ask(heard, max(stream.next - 1, 0)):
                self._restart(stream)
                await self._ask(heard, 0)
        except (ReplayError, WireError):
            self.statistics.replay_failures += 1
        finally:
            stream.asking = False
            waiting, heard.waiting = heard.waiting, deque()
            for message, arrived in waiting:
                if not stream.asking and stream.judge(arrived) is Verdict.GAP:
                    self._accept(heard, message, arrived)
                else:
                    self._take(heard, message, arrived)

    async def _ask(self, heard: _Heard, start: int) -> bool:
        """Takes what is new from `start` on. False when it shows that the engine has restarted.

        The last message taken is asked for, too: that the engine has it under its number shows that it runs on.
        """
        stream, first = heard.stream, True
        assert stream.replay is not None  # noqa: S101 - streams without one are not asked
        async with aclosing(ask(self._context, stream.replay, start)) as replies:
            async for replayed in replies:
                arrived = arrival(replayed.sequence, replayed.payload)
                if first and arrived.sequence < stream.next and not stream.knows(arrived):
                    return False
                first = False
                if arrived.sequence >= stream.next:
                    message = Message(heard.topic, replayed.sequence, replayed.payload)
                    self._accept(heard, message, arrived)
                    self.statistics.replayed += 1
        heard_since = any(arrived.sequence >= stream.next for _, arrived in heard.waiting)
        return not (first and stream.next and not heard_since)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
