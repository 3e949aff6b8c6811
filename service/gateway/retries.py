"""Which requests are sent again, to another pod, and when: the attempts until an engine answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from http import HTTPStatus
from time import monotonic
from typing import Final

import msgspec

from service.fleet.registry import Pod, Registry
from service.gateway.client_request import ClientRequest
from service.gateway.connection import (
    ConnectionBroken,
    ConnectionPool,
    ConnectionRefused,
    EngineConnection,
    EngineError,
    FirstByteTimeout,
)
from service.gateway.engine_request import EngineRequest, request_for
from service.gateway.events import before_answer
from service.gateway.failures import failure_in
from service.gateway.http import Head
from service.gateway.queue import Queue
from service.gateway.request_record import RequestRecord
from service.gateway.statistics import GatewayStatistics
from service.routing.accuracy import Usage
from service.routing.choice import Choice, Router
from service.routing.question import Question
from service.routing.request_listeners import RequestListeners
from service.tracing.base import Attempt, step

logger = logging.getLogger(__name__)
_RETRIED_STATUSES: Final = frozenset((429, 503))
_MAX_READ_AHEAD: Final = 1 << 20
_MAX_BUSY_SECONDS: Final = 10.0


class Limits(msgspec.Struct, frozen=True):
    """Timeouts in seconds, and bounds. No attempt begins later than `retry_seconds` after the first."""

    first_byte: float = 600.0
    silence: float = 120.0
    keep_alive: float = 15.0
    stream_interval: float = 0.0
    """Time for which chunks of a stream are collected; 0 passes each on at once."""
    retry_seconds: float = 30.0
    attempts: int = 3
    max_in_flight_per_pod: int | None = None
    queue_length: int = 0
    """Requests that may wait while all pods have `max_in_flight_per_pod`."""
    queue_seconds: float = 30.0


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


class Exchange(msgspec.Struct):
    """A response whose head has arrived. `start` is the part of the body that was read for the retry decision."""

    choice: Choice
    connection: EngineConnection
    head: Head
    sent: EngineRequest
    record: RequestRecord
    attempt: Attempt
    start: bytes = b""
    has_first_token: bool = False
    """Whether the first piece of a stream has been noted that tells its prefill is done."""
    read_at: float | None = None
    """When the whole body was read, which is `start`; None if there may be more of it."""

    @property
    def pod(self) -> Pod:
        return self.choice.pod

    def first_token(self) -> None:
        """Notes the first piece of a stream: its prefill is done."""
        self.has_first_token = True
        if self.head.status == HTTPStatus.OK:
            self.pod.breaker.answering()
            self.choice.reservation.first_token(monotonic())
            self.record.first_token()
            self.attempt.first_byte()

    def came_whole(self, usage: Usage) -> None:
        """Learns from the duration of an answer that is no stream."""
        if self.read_at is not None and usage.generated is not None:
            reservation = self.choice.reservation
            uncached = reservation.uncached if usage.cached is None else usage.prompt - usage.cached
            reservation.came_whole(self.read_at, uncached, usage.generated)

    def end(self) -> None:
        """Ends the reservation, also of an answer that broke off."""
        if self.choice.reservation.reporter is not None:
            self.choice.reservation.reporter.answered(self.head.status)
        is_whole = self.head.status == HTTPStatus.OK and not self.head.is_event_stream  # a stream has a first token
        self.choice.reservation.end(monotonic(), is_computed=is_whole)
        self.attempt.end(self.head.status)


class Attempts:
    """Sends requests to the pods of a registry, over connections that are kept."""

    def __init__(
        self,
        registry: Registry,
        router: Router,
        limits: Limits,
        statistics: GatewayStatistics,
        listeners: RequestListeners,
    ) -> None:
        self._registry = registry
        self._router = router
        self._limits = limits
        self._statistics = statistics
        self._listeners = listeners
        self._pools: dict[Pod, ConnectionPool] = {}
        self.queue = Queue(limits.queue_length, limits.queue_seconds)
        router.freed = self.queue.wake
        registry.watch(self._changed)

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()

    async def first_answer(self, asked: ClientRequest) -> Exchange:
        """The first answer that needs no retry; without another pod, the last answer.

        Raises NoPod, NoModel and BadEngine.
        """
        refusals: list[Exchange] = []
        answer: Exchange | None = None
        try:
            answer = await self._answer(asked, refusals)
            return answer
        finally:
            for refusal in refusals:
                if refusal is not answer:
                    self.keep(refusal)

    async def _answer(self, asked: ClientRequest, refusals: list[Exchange]) -> Exchange:
        """As `first_answer`; adds the answers of pods that turn the request away to `refusals`."""
        question = asked.question
        started = monotonic()
        tried: list[Pod] = []
        failures: list[EngineError] = []
        waited = False
        while len(tried) < self._limits.attempts and monotonic() - started < self._limits.retry_seconds:
            with step("choose"):
                is_behind = not tried and self._is_behind(question)
                choice = None if is_behind else self._choose(question, tried)
            if choice is None and not tried and self.queue.has_room and self._is_full(question):
                shortest = min((one.seconds for one in self._router.estimates(question)), default=0.0)
                with step("queue"), self._statistics.queueing():
                    choice = await self.queue.turn(question.model, shortest, lambda: self._choose(question, ()))
                started, waited = monotonic(), True
            if choice is None:
                break
            if tried:
                self._statistics.retries += 1
            tried.append(choice.pod)
            attempt = asked.record.attempt(choice, is_predicted=asked.origin is not None)
            self._listeners.routed(choice, question, attempt=len(tried))
            try:
                exchange = await self._attempt(asked, choice, attempt)
                if not await self._is_turned_away(exchange):
                    return exchange
            except EngineError as error:
                _end_without_answer(choice, str(error))
                attempt.end(error=type(error).__name__)
                self._statistics.failures[choice.pod.name, type(error).__name__] += 1
                failures.append(error)
                if isinstance(error, FirstByteTimeout):
                    break  # the engine may be processing it
            except BaseException as error:
                _end_without_answer(choice, str(error) or "the client has left")
                attempt.end(error=type(error).__name__)
                raise
            else:
                exchange.end()
                refusals.append(exchange)
        if refusals:
            return refusals[-1]
        if not all(isinstance(failure, ConnectionRefused) for failure in failures):
            timed_out = isinstance(failures[-1], FirstByteTimeout)
            raise BadEngine(f"{tried[-1].name}: {failures[-1]}", timed_out=timed_out)
        none = self._none_available(question, waited=waited)
        self._listeners.refused(question, str(none))
        raise none

    def _choose(self, question: Question, tried: Collection[Pod]) -> Choice | None:
        return self._router.choose(question, tried, self._limits.max_in_flight_per_pod)

    def _is_behind(self, question: Question) -> bool:
        """Whether others wait for the model, who come first."""
        if self.queue.waits(question.model) and not self.queue.has_room:
            self.queue.serve()  # makes room if there are free places
        return self.queue.waits(question.model)

    def _is_full(self, question: Question) -> bool:
        """Whether a pod would take the request if it had fewer in flight."""
        return any(pod.is_available and pod.serves(question.model) for pod in self._registry)

    async def _attempt(self, asked: ClientRequest, choice: Choice, attempt: Attempt) -> Exchange:
        """Sends a request to one pod. Raises EngineError, after a report to the pod's breaker."""
        pod = choice.pod
        sent = request_for(asked, choice, attempt.headers)
        pod.breaker.started()
        connection: EngineConnection | None = None
        try:
            pool = self._pools.get(pod)
            if pool is None:
                raise ConnectionRefused("the pod has been removed")
            connection = pool.take_idle()
            if connection is not None:
                try:
                    answer = await connection.exchange(asked.http.method, sent.head, sent.body, self._limits.first_byte)
                    return Exchange(choice, connection, answer, sent, asked.record, attempt)
                except ConnectionBroken:
                    if connection.received_any:
                        raise
                    connection.close()  # the engine closed the idle connection
            connection = await pool.open()
            answer = await connection.exchange(asked.http.method, sent.head, sent.body, self._limits.first_byte)
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
        return Exchange(choice, connection, answer, sent, asked.record, attempt)

    async def _is_turned_away(self, exchange: Exchange) -> bool:
        """Whether the engine refuses the request, so that another pod is tried.

        Reads the start of the body before anything is sent to the client. Raises EngineError if the body is incomplete
        or says that the engine aborted the request, as at shutdown.
        """
        head, pod = exchange.head, exchange.pod
        is_turned_away = head.status in _RETRIED_STATUSES
        if is_turned_away:
            pod.breaker.abandoned()
            pod.busy_until = monotonic() + _retry_after(head)
            self._statistics.refusals[pod.name, head.status] += 1
        exchange.choice.reservation.tells_first_token = head.is_event_stream
        try:
            if head.is_event_stream:
                await self._read_first_event(exchange)
            else:
                exchange.attempt.first_byte()
                if head.is_json:
                    await self._read_start(exchange)
        except BaseException as error:
            exchange.connection.close()
            if isinstance(error, EngineError):
                pod.breaker.failed(str(error))
            else:
                pod.breaker.abandoned()
            raise
        if head.status < 500 and not is_turned_away and not head.is_event_stream:
            pod.breaker.answering()
        return is_turned_away

    async def _read_first_event(self, exchange: Exchange) -> None:
        """Waits for the first token, since engines send the head of a stream before they compute the prompt.

        After `keep_alive` seconds the client gets the head, and comments. Raises ConnectionBroken.
        """
        loop = asyncio.get_running_loop()
        due = loop.time() + self._limits.keep_alive
        while before_answer(exchange.start) is not None:
            try:
                piece = await exchange.connection.read(max(0.0, due - loop.time()))
            except TimeoutError:
                return
            exchange.start += piece
            if not piece:
                break
        if (failure := failure_in(exchange.start)) is not None:
            raise ConnectionBroken(failure.reason)
        exchange.first_token()

    async def _read_start(self, exchange: Exchange) -> None:
        """Reads up to a megabyte of the body. Raises ConnectionBroken."""
        parts = []
        size = 0
        while size < _MAX_READ_AHEAD:
            try:
                piece = await exchange.connection.read(self._limits.silence)
            except TimeoutError:
                raise ConnectionBroken(f"no bytes for {self._limits.silence:g} s") from None
            if not piece:
                exchange.read_at = monotonic()
                break
            parts.append(piece)
            size += len(piece)
        exchange.start = b"".join(parts)
        if (
            exchange.head.status == 200
            and exchange.read_at is not None
            and (failure := failure_in(exchange.start)) is not None
        ):
            raise ConnectionBroken(failure.reason)

    def _changed(self, pod: Pod, is_there: bool) -> None:
        if is_there:
            self._pools[pod] = ConnectionPool(pod.entry)
        elif (pool := self._pools.pop(pod, None)) is not None:
            pool.close()
            self._statistics.forget(pod.name)

    def keep(self, exchange: Exchange) -> None:
        pool = self._pools.get(exchange.pod)
        if pool is None:
            exchange.connection.close()
        else:
            pool.put(exchange.connection)

    def _none_available(self, question: Question, *, waited: bool) -> NoPod | NoModel:
        serving = [pod for pod in self._registry if pod.serves(question.model)]
        if not serving and len(self._registry):
            for pod in self._registry:
                pod.on_doubt()
            return NoModel(f"no pod serves the model {question.model!r}")
        waits = [pod.breaker.retry_after for pod in serving if not pod.is_draining]
        full = f"full, also after {self._limits.queue_seconds:g} s (QUEUE_SECONDS)" if waited else "full"
        reasons = "; ".join(f"{pod.name}: {unavailable_reason(pod) or full}" for pod in serving) or "there are no pods"
        return NoPod(f"no pod can take the request ({reasons})", max(1, round(min(waits, default=1.0))))


def _end_without_answer(choice: Choice, problem: str) -> None:
    if choice.reservation.reporter is not None:
        choice.reservation.reporter.failed(problem)
    choice.reservation.end(monotonic())


def _retry_after(head: Head) -> float:
    """Seconds of Retry-After, at most 10; 1 without one."""
    value = head.get(b"retry-after") or b""
    return min(float(value), _MAX_BUSY_SECONDS) if value.isdigit() else 1.0


def unavailable_reason(pod: Pod) -> str | None:
    """Why a pod takes no requests; None if it takes some."""
    if pod.is_available:
        return None
    if pod.is_draining:
        return "draining"
    if pod.healthy is False:
        return pod.problem or "down"
    return pod.breaker.reason or "one request tries whether it works again"
