"""A listening HTTP socket whose certificate can change while it listens."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from service.tls import Stamp, TlsError, TlsFiles
from service.workers.acceptor import WorkerMessage
from service.workers.handed_connections import HandedConnections

logger = logging.getLogger(__name__)

_BACKLOG: Final = 1024
_RECHECK_SECONDS: Final = 1.0
_SHUTDOWN_SECONDS: Final = 2.0
"""Seconds for a client's part in the end of TLS."""


class Listener:
    """Listens on one address. Changed TLS files apply to connections made after the change; others go on."""

    def __init__(
        self, connection: Callable[[], asyncio.Protocol], files: TlsFiles | None = None, *, handshake_timeout: float
    ) -> None:
        self._connection = connection
        self._files = files
        self._handshake_timeout = handshake_timeout
        self._stamp: Stamp | None = None
        self._servers: list[asyncio.Server] = []

    async def open(self, host: str, port: int) -> int:
        """Listens; returns the port. `::` hears IPv4, too. Raises OSError, TlsError."""
        loop = asyncio.get_running_loop()
        context = self._read()
        where: dict[str, Any] = {"host": host, "port": port}
        if host == "::" and socket.has_dualstack_ipv6():  # asyncio would hear IPv6 alone
            both = socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
            where = {"sock": both}
        server = await loop.create_server(self._connection, **where, backlog=_BACKLOG, **self._tls(context))
        self._servers = [server]
        return int(server.sockets[0].getsockname()[1])

    async def open_at(self, listening: socket.socket) -> None:
        """Listens on a socket that listens already, without TLS. The socket is the caller's."""
        loop = asyncio.get_running_loop()
        self._servers = [await loop.create_server(self._connection, sock=listening.dup(), backlog=_BACKLOG)]

    async def follow(self, interval: float = _RECHECK_SECONDS) -> None:
        """Uses changed files; unusable ones are logged once, and the former certificate stays."""
        while self._files is not None:
            await asyncio.sleep(interval)
            try:
                if self._files.stamp() == self._stamp:
                    continue
                await self._listen_anew(self._read())
                logger.info("%s was read again", self._files.cert)
            except (OSError, TlsError) as error:
                if self._stamp is not None:
                    logger.error("The former certificate stays: %s", error)  # noqa: TRY400
                self._stamp = None

    def close(self) -> None:
        for server in self._servers:
            server.close()

    async def wait_begun(self) -> None:
        """Waits until each connection that was handed over is made, or has failed: a TLS handshake takes its time."""

    def _read(self) -> ssl.SSLContext | None:
        if self._files is None:
            return None
        try:
            stamp = self._files.stamp()
        except OSError as error:
            raise TlsError(f"{error.filename}: {error.strerror}") from error
        context = self._files.context()
        self._stamp = stamp
        return context

    async def _listen_anew(self, context: ssl.SSLContext | None) -> None:
        # Copies of the listening sockets: no connection is refused between the two servers.
        loop, former = asyncio.get_running_loop(), self._servers
        copies = [socket.socket(fileno=os.dup(listening.fileno())) for server in former for listening in server.sockets]
        self._servers = [
            await loop.create_server(self._connection, sock=copy, backlog=_BACKLOG, **self._tls(context))
            for copy in copies
        ]
        for server in former:
            server.close()

    def _tls(self, context: ssl.SSLContext | None) -> dict[str, Any]:
        if context is None:
            return {}
        return {
            "ssl": context,
            "ssl_handshake_timeout": self._handshake_timeout,
            "ssl_shutdown_timeout": _SHUTDOWN_SECONDS,
        }


class HandedListener(Listener):
    """Takes the connections that a supervisor has accepted on one of its ports."""

    def __init__(
        self,
        connection: Callable[[], asyncio.Protocol],
        files: TlsFiles | None = None,
        *,
        handshake_timeout: float,
        handed: HandedConnections,
        number: int,
    ) -> None:
        """`number` is that of the port among those of the supervisor."""
        super().__init__(connection, files, handshake_timeout=handshake_timeout)
        self._handed = handed
        self._number = number
        self._context: ssl.SSLContext | None = None
        self._beginning: set[asyncio.Task[None]] = set()

    async def open(self, host: str, port: int) -> int:
        """Begins to take connections; returns the given port. Raises TlsError."""
        self._context = self._read()
        self._handed.take(self._number, self._take)
        return port

    def close(self) -> None:
        self._handed.receive_all()
        self._handed.take(self._number, None)

    async def wait_begun(self) -> None:
        await asyncio.gather(*self._beginning, return_exceptions=True)

    async def _listen_anew(self, context: ssl.SSLContext | None) -> None:
        self._context = context

    def _take(self, connection: socket.socket) -> None:
        beginning = asyncio.create_task(self._begin(connection))
        self._beginning.add(beginning)
        beginning.add_done_callback(self._beginning.discard)

    async def _begin(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(self._connection, connection, **self._tls(self._context))
        except (OSError, TimeoutError):  # a failed handshake, or a client that has left
            with suppress(OSError):
                connection.close()
            self._handed.tell(WorkerMessage.CONNECTION_ENDED)
