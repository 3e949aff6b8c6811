from __future__ import annotations

import asyncio
import socket

import pytest

from service.workers.acceptor import Acceptor, Channel, WorkerMessage, listen


def tell(channel: Channel, *words: WorkerMessage) -> None:
    channel.of_worker.send(bytes(words))
    assert channel.read()


def test_a_worker_that_tells_something_is_silent_no_longer() -> None:
    channel = Channel()
    channel.silent = 29
    tell(channel, WorkerMessage.READY)
    assert (channel.silent, channel.is_ready) == (0, True)
    channel.close()


@pytest.mark.parametrize(("silent", "taken"), [(2, "slow"), (20, "other")])
async def test_a_worker_that_is_silent_gets_no_connection_while_another_one_is_not(silent: int, taken: str) -> None:
    sockets = await listen("127.0.0.1", 0)
    acceptor = Acceptor([sockets])
    channels = {"slow": Channel(), "other": Channel()}
    for channel in channels.values():
        acceptor.add(channel)
        tell(channel, WorkerMessage.LISTENING, WorkerMessage.READY)
    channels["slow"].silent = silent
    channels["other"].connections = 1
    _, writer = await asyncio.open_connection(*sockets[0].getsockname())
    acceptor._look()
    data, descriptors, _, _ = await asyncio.to_thread(socket.recv_fds, channels[taken].of_worker, 1, 1)
    assert data == b"\0"
    for descriptor in descriptors:
        socket.close(descriptor)
    writer.close()
    acceptor.close()
    for channel in channels.values():
        acceptor.remove(channel)
