"""Forwards requests to engines and returns answers, both unchanged; retries on another pod after a failure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

import msgspec
from aiohttp import HttpVersion, HttpVersion11, web
from multidict import CIMultiDict

from service.fleet.registry import Pod, Registry
from service.gateway.choice import Question, choose
from service.gateway.connection import (
    ConnectionBroken,
    ConnectionPool,
    ConnectionRefused,
    EngineConnection,
    EngineError,
    FirstByteTimeout,
)
from service.gateway.http import Head, end_to_end, request_head
from service.gateway.relay import ABORTED, SHUTTING_DOWN, Relay, client_transport
from service.gateway.statistics import GatewayStatistics

logger = logging.getLogger(__name__)
_RETRIED_STATUSES = frozenset((429, 503))
_MAX_READ_AHEAD = 1 << 20
_MAX_BUSY_SECONDS = 10.0
_NOT_FORWARDED = frozenset((b"host", b"content-length", b"content-encoding", b"expect"))
"""The body is forwarded decoded, with its own length, to another host."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Timeouts in seconds, and bounds. No attempt begins later than `retry_seconds` after the first."""

    first_byte: float = 600.0
    silence: float = 120.0
    keep_alive: float = 15.0
    retry_seconds: float = 30.0
    attempts: int = 3
    max_in_flight_per_pod: int | None = None


AUTHENTICATED = web.RequestKey("authenticated", bool)
"""Set for a request with an API key of this service; the key is not forwarded to the engine."""


class NoPod(Exception):
    """No pod can take the request now; `retry_after` is in seconds."""

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class NoModel(Exception):
    """No pod serves the model."""


class BadEngine(Exception):
    """All attempts failed without an answer from an engine; `timed_out` if the last one timed out."""

    def __init__(self, reason: str, *, timed_out: bool) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


@dataclass(slots=True)
class _Exchange:
    """A response whose head has arrived. `start` is the part of the body that was read for the retry decision."""

    pod: Pod
    connection: EngineConnection
    head: Head
    start: bytes = b""
    is_read: bool = False
    """Whether `start` is the whole body."""


class Gateway:
    """Forwards requests to the pods of a registry."""

    def __init__(self, registry: Registry, limits: Limits) -> None:
        self.statistics = GatewayStatistics()
        self._registry = registry
        self._limits = limits
        self._pools: dict[Pod, ConnectionPool] = {}
        registry.watch(self._changed)

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()

    async def forward(self, request: web.Request, body: bytes, question: Question) -> web.StreamResponse:
        """Sends a request to the best pod, or to another one if it fails before its answer begins.

        Returns the answer, which is already sent to the client. Raises NoPod, NoModel, BadEngine, and ConnectionError
        for an incomplete answer. Cancellation closes the engine's connection.
        """
        exchange = await self._answered(request, body, question)
        with self._in_flight(exchange.pod):
            try:
                return await self._relay(request, exchange, question)
            except BaseException:
                exchange.pod.breaker.abandoned()
                raise
            finally:
                self._keep(exchange)

    def _changed(self, pod: Pod, is_there: bool) -> None:
        if is_there:
            self._pools[pod] = ConnectionPool(pod.entry)
        elif (pool := self._pools.pop(pod, None)) is not None:
            pool.close()

    def _keep(self, exchange: _Exchange) -> None:
        pool = self._pools.get(exchange.pod)
        if pool is None:
            exchange.connection.close()
        else:
            pool.put(exchange.connection)

    async def _answered(self, request: web.Request, body: bytes, question: Question) -> _Exchange:
        """The first answer that needs no retry; without another pod, the last answer."""
        started = monotonic()
        tried: list[Pod] = []
        last: _Exchange | None = None
        failure: EngineError | None = None
        while len(tried) < self._limits.attempts and monotonic() - started < self._limits.retry_seconds:
            pod = choose(self._registry, question, tried, self._limits.max_in_flight_per_pod)
            if pod is None:
                break
            if tried:
                self.statistics.retries += 1
            tried.append(pod)
            if last is not None:
                last.connection.close()
                last = None
            try:
                exchange = await self._attempt(request, body, question, pod)
                if not await self._is_refusal(exchange):
                    return exchange
            except EngineError as error:
                self.statistics.failures[pod.name, type(error).__name__] += 1
                failure = error
                if isinstance(error, FirstByteTimeout):
                    break  # the engine may be processing it
            else:
                last = exchange
        if last is not None:
            return last
        if failure is not None:
            raise BadEngine(f"{tried[-1].name}: {failure}", timed_out=isinstance(failure, FirstByteTimeout))
        raise self._none_available(question)

    async def _attempt(self, request: web.Request, body: bytes, question: Question, pod: Pod) -> _Exchange:
        """Sends a request to one pod. Raises EngineError, after a report to the pod's breaker."""
        head = self._request_head(request, body, question, pod)
        pod.breaker.started()
        with self._in_flight(pod):
            connection: EngineConnection | None = None
            try:
                pool = self._pools[pod]
                connection = pool.take_idle()
                if connection is not None:
                    try:
                        answer = await connection.exchange(request.method, head, body, self._limits.first_byte)
                        return _Exchange(pod, connection, answer)
                    except ConnectionBroken:
                        if connection.received_any:
                            raise
                        connection.close()  # the engine closed the idle connection
                connection = await pool.open()
                answer = await connection.exchange(request.method, head, body, self._limits.first_byte)
            except EngineError as error:
                if connection is not None:
                    connection.close()
                logger.debug("An attempt at %s failed: %s", pod.name, error)
                pod.breaker.failed(str(error), refused=isinstance(error, ConnectionRefused))
                raise
            except asyncio.CancelledError:
                if connection is not None:
                    connection.close()
                pod.breaker.abandoned()
                raise
        return _Exchange(pod, connection, answer)

    def _request_head(self, request: web.Request, body: bytes, question: Question, pod: Pod) -> bytes:
        entry = pod.entry
        headers = [
            (name, value) for name, value in end_to_end(request.raw_headers) if name.lower() not in _NOT_FORWARDED
        ]
        if pod.key is not None or AUTHENTICATED in request:
            headers = [(name, value) for name, value in headers if name.lower() != b"authorization"]
        if pod.key is not None:
            headers.append((b"Authorization", b"Bearer " + pod.key.encode()))
        match = question.matches.get(pod.name)
        if match is not None and pod.learned is not None and pod.learned.ranks > 1:
            headers.append((b"X-data-parallel-rank", b"%d" % match.rank))
        if body or request.method not in {"GET", "HEAD", "OPTIONS"}:
            headers.append((b"Content-Length", b"%d" % len(body)))
        host = f"[{entry.host}]" if ":" in entry.host else entry.host
        headers.insert(0, (b"Host", f"{host}:{entry.port}".encode()))
        return request_head(request.method, entry.path + request.raw_path, headers)

    async def _is_refusal(self, exchange: _Exchange) -> bool:
        """Whether the engine refuses the request, so that another pod is tried.

        Reads the start of an unstreamed body before anything is sent to the client. Raises EngineError if the body is
        incomplete or says that the engine aborted the request, as at shutdown.
        """
        head, pod = exchange.head, exchange.pod
        is_refusal = head.status in _RETRIED_STATUSES
        if is_refusal:
            pod.breaker.abandoned()
            pod.busy_until = monotonic() + _retry_after(head)
            self.statistics.refusals[pod.name, head.status] += 1
        if not head.is_event_stream:
            try:
                await self._read_start(exchange)
            except BaseException as error:
                exchange.connection.close()
                if isinstance(error, EngineError):
                    pod.breaker.failed(str(error))
                else:
                    pod.breaker.abandoned()
                raise
        return is_refusal

    async def _read_start(self, exchange: _Exchange) -> None:
        """Reads up to a megabyte of the body. Raises ConnectionBroken."""
        parts = []
        size = 0
        while size < _MAX_READ_AHEAD:
            try:
                piece = await exchange.connection.read(self._limits.silence)
            except TimeoutError:
                raise ConnectionBroken(f"no bytes for {self._limits.silence:g} s") from None
            if not piece:
                exchange.is_read = True
                break
            parts.append(piece)
            size += len(piece)
        exchange.start = b"".join(parts)
        if exchange.head.status == 200 and exchange.is_read and ABORTED.search(exchange.start):
            raise ConnectionBroken(SHUTTING_DOWN)

    async def _relay(self, request: web.Request, exchange: _Exchange, question: Question) -> web.StreamResponse:
        head, pod = exchange.head, exchange.pod
        response = _Response(head, self._added_headers(pod, question), request.version)
        writer = await response.prepare(request)
        if exchange.start:
            await response.write(exchange.start)
        if not exchange.is_read:
            assert writer is not None  # noqa: S101 - the request is not a websocket's
            writer.send_headers()  # aiohttp would delay them until the first piece
            relay = Relay(
                exchange.connection,
                client_transport(request),
                is_chunked=bool(response.chunked),
                is_event_stream=head.is_event_stream,
            )
            try:
                await relay.run(writer, self._limits.silence, self._limits.keep_alive)
            except (EngineError, TimeoutError) as error:
                reason = str(error) or f"no bytes for {self._limits.silence:g} s"
                pod.breaker.failed(reason)
                self.statistics.broken_streams[pod.name] += 1
                await self._break_off(request, response, head, f"{pod.name}: {reason}")
        await response.write_eof()
        if head.status < 500:
            pod.breaker.succeeded()
        return response

    async def _break_off(self, request: web.Request, response: web.StreamResponse, head: Head, reason: str) -> None:
        """Ends an answer as incomplete, with an error event in a stream. Raises ConnectionError."""
        if head.is_event_stream:
            detail = {"message": f"the engine broke off: {reason}", "type": "server_error", "param": None}
            error = msgspec.json.encode({"error": {**detail, "code": "engine_broke_off"}})
            await response.write(b"data: %b\n\n" % error)
        if request.transport is not None:
            request.transport.close()  # without the last chunk, so that the client sees an incomplete answer
        raise ConnectionResetError(reason)

    def _added_headers(self, pod: Pod, question: Question) -> list[tuple[str, str]]:
        added = [("X-Kvcache-Pod", pod.name)]
        if question.renderer is not None:
            match = question.matches.get(pod.name)
            added.append(("X-Kvcache-Predicted-Tokens", str(match.tokens if match else 0)))
            added.append(("X-Kvcache-Renderer", question.renderer))
            if question.parity is not None:
                added.append(("X-Kvcache-Parity", question.parity))
            if match is not None and pod.learned is not None and pod.learned.ranks > 1:
                added.append(("X-Kvcache-Rank", str(match.rank)))
        return added

    def _none_available(self, question: Question) -> NoPod | NoModel:
        serving = [pod for pod in self._registry if pod.serves(question.model)]
        if not serving and len(self._registry):
            return NoModel(f"no pod serves the model {question.model!r}")
        waits = [pod.breaker.retry_after for pod in serving if not pod.draining]
        reasons = "; ".join(f"{pod.name}: {_reason(pod)}" for pod in serving) or "there are no pods"
        return NoPod(f"no pod can take the request ({reasons})", max(1, round(min(waits, default=1.0))))

    @contextmanager
    def _in_flight(self, pod: Pod) -> Iterator[None]:
        pod.in_flight += 1
        try:
            yield
        finally:
            pod.in_flight -= 1


class _Response(web.StreamResponse):
    """A response with the engine's status and headers; aiohttp adds none."""

    def __init__(self, head: Head, added: list[tuple[str, str]], version: HttpVersion) -> None:
        headers: CIMultiDict[str] = CIMultiDict(
            (name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))
            for name, value in end_to_end(head.headers)
        )
        for name, value in added:
            headers[name] = value
        super().__init__(status=head.status, reason=head.reason, headers=headers)
        if head.get(b"content-length") is None and head.status not in {204, 304} and version >= HttpVersion11:
            self.enable_chunked_encoding()


def _retry_after(head: Head) -> float:
    """Seconds of Retry-After, at most 10; 1 without one."""
    value = head.get(b"retry-after") or b""
    return min(float(value), _MAX_BUSY_SECONDS) if value.isdigit() else 1.0


def _reason(pod: Pod) -> str:
    if pod.draining:
        return "draining"
    if pod.healthy is False:
        return pod.problem or "down"
    return pod.breaker.reason or "full"
