from __future__ import annotations

import asyncio

import pytest
import zmq

from service.contract.endpoints import Endpoint
from service.events.subscription import Message, Subscription


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


async def test_an_endpoint_goes_on_after_a_message_that_could_not_be_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    publisher = context.socket(zmq.XPUB)
    port = publisher.bind_to_random_port("tcp://127.0.0.1")
    listener = Startled()
    subscription = Subscription(
        context, Endpoint(f"tcp://127.0.0.1:{port}"), "kv@", listener, turns=asyncio.Semaphore(), pause=0.0
    )
    subscription.open()
    try:
        await asyncio.to_thread(publisher.poll, 10_000)
        for sequence in range(2):
            publisher.send_multipart((b"kv@a@m", sequence.to_bytes(8, "big"), b"payload"))
        message = await asyncio.wait_for(listener.messages.get(), 10)
        assert (message.topic, message.sequence, message.payload) == (b"kv@a@m", 1, b"payload")
        assert "could not be taken" in caplog.text
    finally:
        await subscription.close()
        context.destroy(linger=0)
