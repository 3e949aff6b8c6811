from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Literal

import pytest
import zmq

from service.contract.endpoints import Endpoint
from service.events.access import Access
from service.events.messages import Message
from service.events.subscription import Subscription, SubscriptionOptions
from service.simulation.publisher import Publisher
from tests.waiting import PATIENCE, until


class Startled:
    """A listener that the first message is too much for."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.startled = False

    def received(self, subscription: Subscription, message: Message) -> None:
        if not self.startled:
            self.startled = True
            raise ValueError("too much")
        self.messages.put_nowait(message)

    def malformed(self, subscription: Subscription) -> None: ...

    def connected(self, subscription: Subscription) -> None: ...

    def disconnected(self, subscription: Subscription, connection: int) -> None: ...


class Counting:
    """A listener that counts its messages."""

    def __init__(self, other: Counting | None = None) -> None:
        self.messages = 0
        self.others_messages = 0
        """What `other` had received when the first message came here."""
        self._other = other

    def received(self, subscription: Subscription, message: Message) -> None:
        if self._other is not None and not self.messages:
            self.others_messages = self._other.messages
        self.messages += 1

    def malformed(self, subscription: Subscription) -> None: ...

    def connected(self, subscription: Subscription) -> None: ...

    def disconnected(self, subscription: Subscription, connection: int) -> None: ...


class Turns(asyncio.Semaphore):
    """Turns that count who has asked for one and has not got it yet."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0

    async def acquire(self) -> Literal[True]:
        self.waiting += 1
        try:
            return await super().acquire()
        finally:
            self.waiting -= 1


async def test_an_endpoint_that_floods_does_not_keep_others_waiting() -> None:
    turns = Turns()
    flooded = Counting()
    heard = Counting(flooded)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    async with AsyncExitStack() as stack:
        stack.callback(context.destroy, linger=0)
        publishers = [await stack.enter_async_context(Publisher(replay=None, linger=0.0)) for _ in range(2)]
        for publisher, listener in zip(publishers, (flooded, heard), strict=True):
            options = SubscriptionOptions(
                context=context, topic="", listener=listener, turns=turns, access=Access(context)
            )
            subscription = Subscription(Endpoint(publisher.address), options)
            stack.push_async_callback(subscription.close)
            subscription.open()
            await publisher.subscribed()
        async with turns:
            for _ in range(20_000):
                publishers[0].publish(b"flood")
            publishers[1].publish(b"heard")
            await until(lambda: turns.waiting == 2)
        await until(lambda: heard.messages == 1)
        assert heard.others_messages < 20_000


async def test_an_endpoint_goes_on_after_a_message_that_could_not_be_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    publisher = context.socket(zmq.XPUB)
    port = publisher.bind_to_random_port("tcp://127.0.0.1")
    listener = Startled()
    options = SubscriptionOptions(
        context=context,
        topic="kv@",
        listener=listener,
        turns=asyncio.Semaphore(),
        access=Access(context),
        pause=0.0,
    )
    subscription = Subscription(Endpoint(f"tcp://127.0.0.1:{port}"), options)
    subscription.open()
    try:
        await asyncio.to_thread(publisher.poll, int(PATIENCE * 1000))
        for sequence in range(2):
            publisher.send_multipart((b"kv@a@m", sequence.to_bytes(8, "big"), b"payload"))
        message = await asyncio.wait_for(listener.messages.get(), PATIENCE)
        assert (message.topic, message.sequence, message.payload) == (b"kv@a@m", 1, b"payload")
        assert "could not be taken" in caplog.text
    finally:
        await subscription.close()
        context.destroy(linger=0)


@pytest.mark.parametrize("sockets", [1, 2])
async def test_a_socket_that_cannot_be_made_is_a_problem_with_the_remedy(sockets: int) -> None:
    """One socket is held, and the subscription needs three."""
    with zmq.Context() as context:
        context.set(zmq.MAX_SOCKETS, sockets)
        with context.socket(zmq.PAIR):
            endpoint = Endpoint("tcp://127.0.0.1:5557")
            options = SubscriptionOptions(
                context=context, topic="", listener=Counting(), turns=asyncio.Semaphore(), access=Access(context)
            )
            subscription = Subscription(endpoint, options)
            subscription.open()
            assert "raise the limit of open files" in (subscription.problem or "")
            await subscription.close()
