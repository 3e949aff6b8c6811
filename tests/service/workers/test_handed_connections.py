"""A worker's end of the socket to its supervisor, whose end is in the test."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from service.contract.pods import PodEntry
from service.contract.settings import Settings
from service.replicas.shared.hub import Hub
from service.server import Worker, listening
from service.workers.acceptor import SURPLUS, Channel
from service.workers.handed_connections import HandedConnections
from service.workers.place import Place
from tests.service.certificates import Authority
from tests.service.gateway.raw import post
from tests.service.gateway.routed import CHAT
from tests.service.gateway.scripted import Received, answer, scripted
from tests.waiting import PATIENCE, until

_STOP_SECONDS = 1.0
"""A stop takes less that waits for nothing."""
REQUEST = post(CHAT, b'{"model": "builtin/demo", "messages": []}').replace(b"Connection: close\r\n", b"")


class Supervisor:
    """A listening socket, and the channel to one worker."""

    def __init__(self) -> None:
        self.channel = Channel()
        self.handed = HandedConnections(self.channel.of_worker.detach(), lambda: None)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)

    async def hand_over(
        self, tls: ssl.SSLContext | None = None
    ) -> asyncio.Task[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Hands a connection over to the worker; the task gives the client's end of it."""
        port = self._listening.getsockname()[1]
        connecting = asyncio.create_task(asyncio.open_connection("localhost" if tls else "127.0.0.1", port, ssl=tls))
        accepted, _ = await asyncio.get_running_loop().sock_accept(self._listening)
        with accepted:
            assert self.channel.hand_over(0, accepted)
        return connecting

    def close(self) -> None:
        self._listening.close()
        self.handed.close()
        self.channel.close()


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    supervisor = Supervisor()
    yield supervisor
    supervisor.close()


@asynccontextmanager
async def worker_of(supervisor: Supervisor, settings: Settings, folder: Path) -> AsyncIterator[None]:
    """The only worker of a supervisor, when it is ready."""
    hub = Hub()
    place = Place(0, 1, 0, 0, folder)
    await hub.start(place.hub)
    try:
        async with listening(settings, Worker(place, supervisor.handed)):
            await until(lambda: supervisor.channel.read() and supervisor.channel.is_ready)
            yield
    finally:
        await hub.close()


@pytest.mark.parametrize("has_tls", [False, True])
async def test_the_last_connection_that_is_handed_over_is_answered(
    supervisor: Supervisor, settings: Settings, folder: Path, *, has_tls: bool
) -> None:
    context = None
    if has_tls:
        authority = Authority(folder)
        pair = authority.issue("service")
        settings = replace(settings, tls_cert=pair.cert, tls_key=pair.key)
        context = ssl.create_default_context(cafile=authority.pair.cert)

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.wait([stopping], timeout=_STOP_SECONDS)
        await answer(b"{}")(received, writer)

    async def ask() -> bytes:
        reader, writer = await connecting
        writer.write(REQUEST)
        answered = await reader.read()
        writer.close()
        return answered

    async with scripted(respond) as engine, AsyncExitStack() as stack, asyncio.timeout(PATIENCE):
        settings = replace(settings, drain_timeout=PATIENCE, pods=(PodEntry(engine.url, engine.pod),))
        await stack.enter_async_context(worker_of(supervisor, settings, folder))
        connecting = await supervisor.hand_over(context)
        supervisor.channel.end()
        stopping = asyncio.create_task(stack.aclose())
        assert (await ask()).endswith(b"\r\n\r\n{}")
        await stopping


async def test_a_surplus_that_is_told_again_ends_no_more_connections_than_it_says(
    supervisor: Supervisor, settings: Settings, folder: Path
) -> None:
    goes_on = asyncio.Event()

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        await goes_on.wait()
        await answer(b"{}")(received, writer)

    async with AsyncExitStack() as stack, asyncio.timeout(PATIENCE):
        engine = await stack.enter_async_context(scripted(respond))
        settings = replace(settings, pods=(PodEntry(engine.url, engine.pod),))
        await stack.enter_async_context(worker_of(supervisor, settings, folder))
        stack.callback(supervisor.channel.end)

        async def answers(count: int) -> list[bytes]:
            """The heads of the answers to requests that begin one after another, with a surplus of one told before."""
            goes_on.clear()
            readers = []
            for _ in range(count):
                supervisor.channel.tell_surplus(1)
                reader, writer = await (await supervisor.hand_over())
                stack.callback(writer.close)
                writer.write(REQUEST)
                readers.append(reader)
                begun = len(engine.requests) + 1
                await until(lambda begun=begun: len(engine.requests) == begun)  # type: ignore[misc]
            goes_on.set()
            return [await reader.readuntil(b"\r\n\r\n{}") for reader in readers]

        assert [b"Connection: close" in head for head in await answers(3)] == [True, False, False]
        await until(lambda: supervisor.channel.read() and supervisor.channel.connections == 2)
        assert [b"Connection: close" in head for head in await answers(2)] == [True, False]


@contextmanager
def no_more_files() -> Iterator[None]:
    """As many open files as there are: no further one can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_connections_for_which_there_is_no_descriptor_are_told_and_logged_once(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[socket.socket] = []
    supervisor.handed.take(0, taken.append)
    for _ in range(2):
        first, second = socket.socketpair()
        with first, second:
            assert supervisor.channel.hand_over(0, first)
        with no_more_files():
            supervisor.handed.receive_all()
    assert not taken
    assert supervisor.channel.read()
    assert supervisor.channel.connections == 0
    assert len([record for record in caplog.records if "too many open files" in record.getMessage()]) == 1


async def test_a_surplus_of_none_is_told_when_the_worker_reads_again(supervisor: Supervisor) -> None:
    told: list[int] = []
    supervisor.handed.take_surplus(told.append)
    supervisor.channel.tell_surplus(3)
    with suppress(BlockingIOError):
        while True:
            supervisor.channel.socket.send(bytes([SURPLUS + 3]))
    supervisor.channel.tell_surplus(0)
    supervisor.handed.receive_all()
    assert set(told) == {3}
    supervisor.channel.tell_surplus(0)
    supervisor.handed.receive_all()
    assert told[-1] == 0
