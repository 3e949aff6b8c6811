from __future__ import annotations

import asyncio

import uvloop
import zmq

from service.events.replay_frames import Replay
from service.events.replay_socket import ask
from service.simulation.publisher import Publisher
from tests.waiting import PATIENCE


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readline())
    writer.close()


async def _echoed(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"hello\n")
    line = await reader.readline()
    writer.close()
    return line


async def _echoes_after_replays() -> set[bytes]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    echoes: set[bytes] = set()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    async with server, Publisher(topic="kv@pod@model") as engine, asyncio.timeout(PATIENCE):
        engine.publish(b"payload")
        for _ in range(5):
            assert [replayed.sequence async for replayed in ask(context, engine.replay, Replay(0))] == [0]
            # Among these are some that get the number that a socket of the replay had.
            echoes.update(await asyncio.gather(*(_echoed(port) for _ in range(8))))
    context.term()
    return echoes


def test_a_replay_leaves_nothing_that_keeps_the_loop_from_reading_other_sockets() -> None:
    assert uvloop.run(_echoes_after_replays()) == {b"hello\n"}
