"""Subscribes to engines for a few seconds and prints a summary of their events: one JSON object per endpoint.

Listens to all topics, whatever ZMQ_TOPIC is, so that a topic that the service would ignore is seen. Endpoints that the
service would bind are left out.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
import zmq

from service.commands.command_line import parser, seconds
from service.contract.endpoints import Endpoint, parse_endpoints
from service.contract.listening import Heard, write_heard
from service.contract.settings import Settings
from service.events.access import Access
from service.events.curve import KeyPair
from service.events.messages import Message
from service.events.replay_frames import Replay, ReplayError
from service.events.replay_socket import ask
from service.events.subscription import Subscription, SubscriptionOptions, new_context
from service.events.topic import read_topic
from service.events.wire import WireError, read_batch
from service.index.base import Stored

_LISTED = 5


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    options = _options(arguments, environment)
    for heard in asyncio.run(listen(options.endpoints, options.model, lambda _: asyncio.sleep(options.duration))):
        print(write_heard(heard), flush=True)  # noqa: T201
    return 0


def _options(arguments: list[str], environment: Mapping[str, str]) -> argparse.Namespace:
    settings = Settings()
    command = parser("listen", __doc__)
    command.add_argument("--endpoints", default=environment.get("ZMQ_ENDPOINT", ""), help="as ZMQ_ENDPOINT")
    command.add_argument("--model", default=settings.model_name, help="model of topics without one")
    command.add_argument("--for", dest="duration", type=seconds, default=3.0, metavar="TIME", help="how long (3s)")
    options = command.parse_args(arguments)
    try:
        options.endpoints = [endpoint for endpoint in parse_endpoints(options.endpoints) if not endpoint.binds]
    except ValueError as error:
        command.error(f"--endpoints: {error}")
    return options


async def listen(
    endpoints: Sequence[Endpoint], model: str, meanwhile: Callable[[Sequence[Listener]], Awaitable[None]]
) -> list[Heard]:
    """Listens until `meanwhile` returns, which gets the listeners in the order of the endpoints.

    `model` is the model of topics without one.
    """
    context: zmq.Context[zmq.Socket[bytes]] = new_context()
    turns, access = asyncio.Semaphore(), Access(context)
    listeners = [Listener(endpoint, model) for endpoint in endpoints]
    subscriptions = [
        Subscription(
            listener.endpoint,
            SubscriptionOptions(context=context, topic="", listener=listener, turns=turns, access=access),
        )
        for listener in listeners
    ]
    try:
        for subscription in subscriptions:
            subscription.open()
        await meanwhile(listeners)
        return [
            await listener.heard(context, subscription.problem)
            for listener, subscription in zip(listeners, subscriptions, strict=True)
        ]
    finally:
        for subscription in subscriptions:
            await subscription.close()
        context.destroy(linger=0)


class Listener:
    """Counts the messages of one endpoint. Implements subscription.Listener."""

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self.endpoint = endpoint
        self.is_connected = False
        self.messages = 0
        self._model = model
        self._unreadable: str | None = None
        self._topics: dict[str, None] = {}
        self._pods: dict[str, None] = {}
        self._peer: str | None = None
        self._models: dict[str, None] = {}
        self._block_sizes: dict[int, None] = {}
        self._hash_bits: dict[int, None] = {}

    def received(self, subscription: Subscription, message: Message) -> None:
        self.messages += 1
        self._topics.setdefault(message.topic.decode("utf-8", "backslashreplace"))
        source = read_topic(message.topic, self.endpoint, self._model, message.peer)
        self._pods.setdefault(source.pod)
        self._peer = self._peer or message.peer
        self._models.setdefault(source.model)
        try:
            for event in read_batch(message.payload).events:
                if isinstance(event, Stored):
                    self._block_sizes.setdefault(event.block_size)
        except WireError as error:
            self._unreadable = str(error)
        else:
            self._hash_bits.update(dict.fromkeys(_hash_bits(message.payload)))

    def malformed(self, subscription: Subscription) -> None:
        self._unreadable = "messages are not of three frames: topic, sequence number, payload"

    def connected(self, subscription: Subscription) -> None:
        self.is_connected = True

    def disconnected(self, subscription: Subscription, connection: int) -> None: ...

    async def heard(self, context: zmq.Context[zmq.Socket[bytes]], problem: str | None) -> Heard:
        """Receives messages for the whole duration; also queries the replay socket, if the endpoint has one."""
        replay = self.endpoint.replay_of(next(iter(self._pods), ""), 0, self._peer)
        first, replay_problem = await _first_replayed(context, replay, self.endpoint.curve) if replay else (None, None)
        return Heard(
            address=self.endpoint.address,
            connected=self.is_connected or self.messages > 0,
            messages=self.messages,
            topics=list(self._topics)[:_LISTED],
            pods=list(self._pods)[:_LISTED],
            models=list(self._models)[:_LISTED],
            block_sizes=list(self._block_sizes)[:_LISTED],
            hash_bits=list(self._hash_bits)[:_LISTED],
            unreadable=self._unreadable,
            problem=problem,
            replay=replay,
            replay_from=first,
            replay_problem=replay_problem,
        )


async def _first_replayed(
    context: zmq.Context[zmq.Socket[bytes]], address: str, curve: str | None
) -> tuple[int | None, str | None]:
    try:
        async with aclosing(ask(context, address, Replay(0), keys=(KeyPair.fresh(), curve))) as replies:
            async for replayed in replies:
                return replayed.sequence, None
    except ReplayError as error:
        return None, str(error)
    return None, None


def _hash_bits(payload: bytes) -> set[int]:
    """Sizes of the block hashes of a batch, as vLLM's --prefix-caching-hash-algo makes them: 64 or 256 bits."""
    batch: Any = msgspec.msgpack.decode(payload)
    found = set()
    for event in batch[1] if isinstance(batch, list) and len(batch) > 1 else ():
        hashes = event.get("block_hashes") if isinstance(event, dict) else event[1:2][0] if len(event) > 1 else None
        for one in hashes[:1] if isinstance(hashes, list) else ():
            found.add(len(one) * 8 if isinstance(one, bytes) else 64)
    return found
