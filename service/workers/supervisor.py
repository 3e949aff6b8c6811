"""Starts workers that share the ports, watches them, and stops them as one.

A worker that ends is started again, later each time; one that hangs is killed first. If the first one ends before it
listens, the settings are to blame, and all end with its exit code.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Final, TypeAlias

from service import log
from service.announcement import announce
from service.contract import secret_environment
from service.contract.settings import Settings
from service.event_loop import loop_factory
from service.events.curve import KeyPair
from service.events.relay import Relay
from service.replicas.shared.hub import Hub
from service.unix_socket import unix_socket
from service.workers.acceptor import Acceptor, Channel, listen
from service.workers.place import HUB, RELAY, VARIABLE, Place

logger = logging.getLogger("service")

Started: TypeAlias = tuple[asyncio.subprocess.Process, Channel]

_STOP_SECONDS: Final = 8.0
"""Seconds after which a worker that still writes its snapshot is killed: before a runtime kills the supervisor."""
_FIRST_DELAY: Final = 0.1
_LAST_DELAY: Final = 10.0
"""Seconds before a worker that ended is started again: twice as many each time."""
_WATCH_SECONDS: Final = 1.0
_STEADY_SECONDS: Final = 30.0
"""Seconds after which a worker counts as having started well."""


def supervise(settings: Settings, count: int, environment: Mapping[str, str]) -> int:
    """Runs `count` workers; returns 0 after SIGTERM or SIGINT, 1 if an address or a setting cannot be used."""
    log.configure(settings.log_format, settings.log_level)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_supervise(settings, count, environment))
    finally:
        log.STDOUT.flush()


async def _supervise(settings: Settings, count: int, environment: Mapping[str, str]) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with ExitStack() as stack:
        try:
            ports = [*await _ports(settings), _at_path(settings, stack)]
        except ListenError as error:
            logger.error("%s", error)  # noqa: TRY400
            return 1
        return await _run(settings, count, environment, ports, stop)


class ListenError(Exception):
    """The supervisor cannot listen; the text names the variable."""


async def _ports(settings: Settings) -> list[list[socket.socket]]:
    """The sockets of HTTP_PORT and METRICS_PORT. Raises ListenError."""
    ports: list[list[socket.socket]] = []
    for port, variable in ((settings.http_port, "HTTP_PORT"), (settings.metrics_port, "METRICS_PORT")):
        try:
            ports.append(await listen(settings.http_host, port) if port is not None else [])
        except OSError as error:
            address = f"HTTP_HOST={settings.http_host}, {variable}={port}"
            raise ListenError(f"cannot listen on {address}: {error.strerror or error}") from error
    return ports


def _at_path(settings: Settings, stack: ExitStack) -> list[socket.socket]:
    """The socket of HTTP_SOCKET, if it is set. Raises ListenError."""
    if settings.http_socket is None:
        return []
    try:
        return [stack.enter_context(unix_socket(settings.http_socket))]
    except OSError as error:
        where = f"HTTP_SOCKET={settings.http_socket}"
        raise ListenError(f"cannot listen on {where}: {error.strerror or error}") from error


async def _run(
    settings: Settings,
    count: int,
    environment: Mapping[str, str],
    ports: Sequence[Sequence[socket.socket]],
    stop: asyncio.Event,
) -> int:
    port = int(ports[0][0].getsockname()[1])
    with TemporaryDirectory(prefix="kvcache-", ignore_cleanup_errors=True) as folder:
        workers = Workers(count, ports, port, Path(folder), environment, timeout=settings.worker_timeout)
        hub, relay = Hub(), _relay(settings)
        try:
            await hub.start(Path(folder) / HUB)
            await relay.start(Path(folder) / RELAY)
            running = asyncio.create_task(workers.run(lambda: announce(settings, port)))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                logger.info("Received shutdown signal")
            stopping.cancel()
            running.cancel()
            (code,) = await asyncio.gather(running, return_exceptions=True)
        finally:
            await workers.stop(settings.drain_timeout)
            await relay.close()
            await hub.close()
    logger.info("stopped")
    if isinstance(code, Exception):
        raise code
    return code if isinstance(code, int) else 0


def _relay(settings: Settings) -> Relay:
    keys = None
    if settings.zmq_curve_key is not None:
        with suppress(OSError, ValueError):  # the first worker reports it
            keys = KeyPair.read(settings.zmq_curve_key)
    return Relay(
        topic=settings.zmq_topic,
        concurrency=settings.pool_concurrency,
        high_water=settings.pool_queue_batches,
        own_keys=keys,
    )


class Workers:
    """The worker processes of one supervisor."""

    def __init__(
        self,
        count: int,
        ports: Sequence[Sequence[socket.socket]],
        port: int,
        folder: Path,
        environment: Mapping[str, str],
        *,
        timeout: float,
    ) -> None:
        """A worker that tells nothing for `timeout` seconds is killed, once it listens."""
        self._timeout = timeout
        self._count = count
        self._port = port
        self._folder = folder
        # The file may be gone; its variables are in the environment.
        self._environment = {name: value for name, value in environment.items() if name != secret_environment.VARIABLE}
        self._acceptor = Acceptor(ports)
        self._processes: dict[int, asyncio.subprocess.Process] = {}

    async def run(self, listens: Callable[[], None]) -> int:
        """Runs until it is cancelled, or returns the exit code of a first worker that cannot listen.

        The others start after the first one, so that a wrong setting is reported once. `listens` is called then.
        """
        first = await self._start(0)
        process, channel = first
        listening = asyncio.create_task(channel.is_listening.wait())
        ended = asyncio.create_task(process.wait())
        try:
            await asyncio.wait([listening, ended], return_when=asyncio.FIRST_COMPLETED)
            if not channel.is_listening.is_set():
                return ended.result() or 1
        finally:
            listening.cancel()
            ended.cancel()
        listens()
        async with asyncio.TaskGroup() as group:
            for number in range(self._count):
                group.create_task(self._keep(number, first if number == 0 else None), name=f"worker {number}")
        return 0

    async def stop(self, drain_seconds: float) -> None:
        """Stops all workers, and kills those that take longer than they may for requests in flight."""
        ends = monotonic() + _STOP_SECONDS + drain_seconds
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.terminate()
        await self._acceptor.drain(drain_seconds)
        waiting = [asyncio.create_task(process.wait()) for process in self._processes.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=max(0.0, ends - monotonic()))
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.kill()
        await asyncio.gather(*waiting)

    async def _keep(self, number: int, started: Started | None) -> None:
        """Starts a worker again whenever it ends."""
        delay = _FIRST_DELAY
        while True:
            began = monotonic()
            try:
                process, channel = started or await self._start(number)
            except OSError as error:  # no memory, or too many processes
                reason = f"cannot be started: {error}"
            else:
                reason = await self._ended(process, channel)
                self._acceptor.remove(channel)
            started = None
            delay = _FIRST_DELAY if monotonic() - began > _STEADY_SECONDS else delay
            logger.error("worker %d %s; it starts again in %.1f s", number, reason, delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LAST_DELAY)

    async def _ended(self, process: asyncio.subprocess.Process, channel: Channel) -> str:
        """Waits until a worker has ended, and kills it if it hangs; gives the reason."""
        waiting = asyncio.create_task(process.wait())
        try:
            while not (await asyncio.wait([waiting], timeout=_WATCH_SECONDS))[0]:
                # Turns are counted, not time: while the machine is suspended, nobody can tell anything.
                channel.silent += channel.is_listening.is_set()
                if channel.silent * _WATCH_SECONDS > self._timeout:
                    process.kill()
                    await waiting
                    return f"told nothing for {self._timeout:g} s and was killed"
            return _ending(waiting.result())
        finally:
            waiting.cancel()

    async def _start(self, number: int) -> Started:
        channel = Channel()
        place = Place(number, self._count, channel.of_worker.fileno(), self._port, self._folder)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "service",
            "serve",
            env={**self._environment, VARIABLE: str(place)},
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[channel.of_worker.fileno()],
            # Ctrl+C in a terminal is for the supervisor, which stops the workers.
            start_new_session=True,
        )
        self._processes[number] = process
        channel.of_worker.close()
        self._acceptor.add(channel)
        return process, channel


def _ending(code: int) -> str:
    return f"ended with exit code {code}" if code >= 0 else f"ended with signal {-code}"
