"""Admission of peers to bound endpoints, by address and key: CURVE (RFC 26) and ZAP (RFC 27)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import TypeAlias

import zmq
import zmq.asyncio
from zmq.utils import z85

from service.contract.endpoints import Endpoint
from service.events.curve import KeyPair, read_public, read_publics
from service.events.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)
_ADDRESS = "inproc://zeromq.zap.01"
_ANY = "*"
_REREAD_SECONDS = 1.0
_HANDSHAKE_MILLISECONDS = 5_000
"""After it, a peer that is turned away is disconnected, and tries again."""

Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"
TurnedAway: TypeAlias = Callable[[Endpoint, str, str], None]
"""Called with the endpoint, the peer's address, and the reason."""


class Access:
    """Prepares the sockets of one ZeroMQ context. `own` is the service's key pair, None for a fresh one.

    A peer that may not connect is turned away in its handshake, before it has sent a message.
    """

    def __init__(self, context: Context, own: KeyPair | None = None, turned_away: TurnedAway | None = None) -> None:
        self._context = context
        self._own = own
        self._fresh = KeyPair.fresh()
        self._turned_away = turned_away or (lambda *_: None)
        self._endpoints: dict[str, Endpoint] = {}
        self._known: dict[str, tuple[float, frozenset[bytes]]] = {}
        self._answering: asyncio.Task[None] | None = None
        self._log = RateLimitedLog(logger)

    def secure(self, socket: zmq.Socket[bytes], endpoint: Endpoint) -> None:
        """Sets a socket's keys and its authentication, before it binds or connects. Raises OSError or ValueError."""
        if not endpoint.binds:
            if endpoint.curve is not None:
                connect_with(socket, self._own or self._fresh, Path(endpoint.curve))
            return
        if endpoint.curve is None and endpoint.peers is None:
            return
        if endpoint.curve is not None:
            if self._own is None:
                raise ValueError("curve= of a bound endpoint needs ZMQ_CURVE_KEY")
            if endpoint.curve != _ANY:
                self._keys_of(endpoint.curve)
            socket.curve_server = True
            socket.curve_publickey, socket.curve_secretkey = self._own
        domain = f"{len(self._endpoints)}"
        self._endpoints[domain] = endpoint
        socket.zap_domain = domain.encode()
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.handshake_ivl = _HANDSHAKE_MILLISECONDS
        if self._answering is None:
            # Bound at once: libzmq admits everybody while nobody answers there.
            asked = zmq.asyncio.Context(self._context).socket(zmq.REP)
            asked.linger = 0
            asked.bind(_ADDRESS)
            self._answering = asyncio.create_task(self._answer(asked), name="authentication of engines")

    async def close(self) -> None:
        if self._answering is not None:
            self._answering.cancel()
            await asyncio.gather(self._answering, return_exceptions=True)

    async def _answer(self, asked: zmq.asyncio.Socket) -> None:
        with asked as socket:
            while True:
                version, request, domain, address, _, mechanism, *credentials = await socket.recv_multipart()
                host = address.decode(errors="replace").removeprefix("::ffff:")
                try:
                    reason = self._objection(domain.decode(errors="replace"), host, mechanism, credentials)
                except Exception:
                    logger.exception("A connection of %s could not be checked", host)
                    reason = "internal error"
                # 300, a temporary error: after 400 libzmq's client would not come again when its key is allowed later.
                status = (b"200", b"OK") if reason is None else (b"300", b"not allowed")
                await socket.send_multipart([version, request, *status, b"", b""])

    def _objection(self, domain: str, host: str, mechanism: bytes, credentials: list[bytes]) -> str | None:
        """Why a peer may not connect; None if it may."""
        endpoint = self._endpoints.get(domain)
        if endpoint is None:
            return "an unknown socket"
        reason = None
        if not endpoint.admits(host):
            reason = "its address is not in peers="
        elif endpoint.curve not in (None, _ANY):
            if mechanism != b"CURVE" or not credentials:
                reason = "it does not use CURVE"
            elif z85.encode(credentials[0]) not in self._keys_of(str(endpoint.curve)):
                reason = "its key is not in curve="
        if reason is not None:
            self._turned_away(endpoint, host, reason)
        return reason

    def _keys_of(self, path: str) -> frozenset[bytes]:
        """The public keys that may connect, read again when a second has passed."""
        read_at, keys = self._known.get(path, (0.0, frozenset()))
        if monotonic() - read_at > _REREAD_SECONDS or not read_at:
            try:
                keys = read_publics(Path(path), self._unusable)
            except (OSError, ValueError) as error:
                if not read_at:
                    raise
                self._log.log(logging.ERROR, path, "%s cannot be read, the former keys stay: %s", path, error)
            self._known[path] = monotonic(), keys
        return keys

    def _unusable(self, error: Exception) -> None:
        self._log.log(logging.ERROR, str(error), "A file of keys is left out: %s", error)


def connect_with(socket: zmq.Socket[bytes], own: KeyPair, engine: Path) -> None:
    """Encrypts a connecting socket for the engine whose public key is in a file. Raises OSError or ValueError."""
    socket.curve_serverkey = read_public(engine)
    socket.curve_publickey, socket.curve_secretkey = own
