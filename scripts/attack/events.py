"""Attacks by publishers: batches of a million events, and floods of made-up names.

Each ends when an honest pod that speaks meanwhile is listed; raises TimeoutError if it is not.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import msgspec
import zmq

Attack: TypeAlias = Callable[[int, float], Any]
_Sending: TypeAlias = Callable[["zmq.Socket[bytes]"], None]
_EVENTS = 1_000_000
_TOPICS = 100_000
_HONEST_SECONDS = 120.0


def _stored(number: int) -> list[Any]:
    return ["BlockStored", [number], None, [number, number + 1], 2, None]


def _removed(number: int) -> list[Any]:
    return ["BlockRemoved", [number]]


def _of_a_group(number: int) -> list[Any]:
    return [*_stored(number), None, None, None, 0, "full_attention"]


def _batch(events: Iterable[list[Any]]) -> bytes:
    return msgspec.msgpack.encode([1.0, list(events), 0])


def _million(event: Callable[[int], list[Any]]) -> _Sending:
    def send(socket: zmq.Socket[bytes]) -> None:
        socket.send_multipart([b"kv@liar@builtin/demo", bytes(8), _batch(map(event, range(_EVENTS)))])

    return send


def _one_event(socket: zmq.Socket[bytes]) -> None:
    hashes, tokens = list(range(_EVENTS, 2 * _EVENTS)), list(range(_EVENTS))
    payload = _batch([["BlockStored", hashes, None, tokens, 1, None]])
    socket.send_multipart([b"kv@liar@builtin/demo", bytes(8), payload])


def _made_up_topics(socket: zmq.Socket[bytes]) -> None:
    for number in range(_TOPICS):
        payload = _batch([_stored(number)])
        socket.send_multipart([b"kv@made-up-%d@builtin/demo" % number, bytes(8), payload])


def _publishes(events: str, sending: _Sending) -> Attack:
    async def attack(port: int, seconds: float) -> None:
        with zmq.Context() as context:
            liar, honest = _connected(context, events), _connected(context, events)
            await asyncio.to_thread(liar.poll)
            await asyncio.to_thread(honest.poll)
            await asyncio.to_thread(sending, liar)
            async with asyncio.timeout(_HONEST_SECONDS):
                sequence = 0
                while "honest" not in await _pods(port):
                    payload = _batch([_stored(sequence)])
                    honest.send_multipart([b"kv@honest@builtin/demo", sequence.to_bytes(8, "big"), payload])
                    sequence += 1
                    await asyncio.sleep(0.1)
            await asyncio.sleep(seconds)
            liar.close(0)
            honest.close(0)

    return attack


def _connected(context: zmq.Context[zmq.Socket[bytes]], events: str) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.XPUB)
    socket.sndhwm = 0
    socket.connect(events)
    return socket


async def _pods(port: int) -> set[str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /pods HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return {rank["pod"] for rank in json.loads(answer.partition(b"\r\n\r\n")[2])["pods"]}


def attacks_by_publishers(events: str) -> Mapping[str, Attack]:
    """`events` is the address at which the service is bound."""
    return {
        "a batch of a million stores": _publishes(events, _million(_stored)),
        "a batch of a million stores of a group": _publishes(events, _million(_of_a_group)),
        "a batch of a million removals": _publishes(events, _million(_removed)),
        "an event of a million blocks": _publishes(events, _one_event),
        "100,000 made-up topics": _publishes(events, _made_up_topics),
    }
