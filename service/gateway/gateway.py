"""Forwards requests to engines and returns their answers, both unchanged."""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import web

from service.fleet.registry import Registry
from service.gateway.answer import Answer, added_headers
from service.gateway.client_request import ClientRequest
from service.gateway.connection import EngineError
from service.gateway.events import Events
from service.gateway.failures import error_event
from service.gateway.relay import Relay
from service.gateway.request_record import ID_HEADER, REQUEST_ID
from service.gateway.retries import Attempts, Exchange, Limits
from service.gateway.statistics import GatewayStatistics
from service.routing.accuracy import Accuracy, usage_in
from service.routing.choice import Router
from service.routing.request_listeners import RequestListeners


class Gateway:
    """Forwards requests to the pods of a registry."""

    def __init__(
        self,
        registry: Registry,
        router: Router,
        limits: Limits,
        accuracy: Accuracy | None = None,
        listeners: RequestListeners | None = None,
    ) -> None:
        """`accuracy` judges the answers; `listeners` are told of the requests."""
        self._accuracy = accuracy
        self.statistics = GatewayStatistics()
        self._limits = limits
        self._attempts = Attempts(registry, router, limits, self.statistics, listeners or RequestListeners())

    def close(self) -> None:
        self._attempts.close()

    async def forward(self, asked: ClientRequest) -> web.StreamResponse:
        """Sends a request to the best pod, or to another one if it fails before its answer begins.

        Returns the answer, which is already sent to the client. Raises NoPod, NoModel, BadEngine, and ConnectionError
        for an incomplete answer. Cancellation closes the engine's connection.
        """
        asked.record.note_question(asked.question)
        exchange = await self._attempts.first_answer(asked)
        try:
            return await self._relay(asked, exchange)
        except BaseException as error:
            exchange.pod.breaker.abandoned()
            exchange.attempt.end(exchange.head.status, type(error).__name__)
            if (reporter := exchange.choice.reservation.reporter) is not None:
                reporter.failed(str(error) or "the client has left")
            raise
        finally:
            exchange.end()
            self._attempts.keep(exchange)

    async def _relay(self, asked: ClientRequest, exchange: Exchange) -> web.StreamResponse:
        head, record = exchange.head, exchange.record
        added = added_headers(exchange.choice, asked.origin, names_rank=exchange.sent.names_rank)
        if (identity := asked.http.get(REQUEST_ID)) is not None and head.get(b"x-request-id") is None:
            added.append((ID_HEADER, identity))
        record.note_choice(exchange.choice, is_predicted=asked.origin is not None)
        record.status = head.status
        response = Answer(asked.http, head, added)
        if exchange.read_at is not None:
            end = exchange.start
            record.bytes = len(end)
            await response.send_whole(end)
        else:
            end = await self._stream(asked.http, exchange, response)
        is_ours = exchange.sent.names_rank == exchange.choice.names_rank  # otherwise the client chose the rank
        if head.status == HTTPStatus.OK and (usage := usage_in(end, asked.question.tokens)) is not None:
            record.note_usage(usage)
            if asked.is_judged and exchange.choice.reservation.reporter is not None:
                exchange.choice.reservation.reporter.reused(usage.cached)
            if asked.is_judged and is_ours and usage.is_certain:
                exchange.came_whole(usage)
                if self._accuracy is not None:
                    self._accuracy.note(exchange.choice, asked.question, usage)
        if head.status < 500:
            exchange.pod.breaker.succeeded()
        else:
            exchange.pod.breaker.abandoned()
        return response

    async def _stream(self, request: web.Request, exchange: Exchange, answer: Answer) -> bytes:
        """Sends the head and the body as it arrives; returns the end of the body."""
        head, pod, limits, sent = exchange.head, exchange.pod, self._limits, exchange.sent
        events = Events(hides_usage=sent.asks_usage) if head.is_event_stream else None
        has_begun = exchange.has_first_token if head.is_event_stream else bool(exchange.start)
        start = events.passed(exchange.start) if events is not None else exchange.start
        answer.begin(start)
        exchange.record.bytes = len(start)
        relay = Relay(
            exchange.connection,
            answer.transport,
            is_chunked=answer.is_chunked,
            events=events,
            takes_comments=head.takes_events,
            on_first=None if has_begun else exchange.first_token,
            before=exchange.start,
            interval=limits.stream_interval,
        )
        try:
            await relay.run(
                request.writer,
                first_byte=limits.silence if has_begun else limits.first_byte,
                silence=limits.silence,
                keep_alive=limits.keep_alive,
            )
        except (EngineError, TimeoutError) as error:
            reason = str(error) or "the engine has fallen silent"
            pod.breaker.failed(reason)
            self.statistics.broken_streams[pod.name] += 1
            exchange.record.error = f"the engine broke off: {reason}"
            if head.takes_events:
                ending = b"".join((exchange.start, *relay.last_pieces))
                event = error_event(request.path, f"{pod.name}: {reason}", ending)
                is_between = events is None or events.is_between
                answer.send(event if is_between else b"\n\n" + event)  # behind an event that was cut
            answer.transport.close()  # without the last chunk, so that the client sees an incomplete answer
            raise ConnectionResetError(f"{pod.name}: {reason}") from None
        finally:
            exchange.record.bytes += relay.sent_bytes
        await answer.end()
        return b"".join((exchange.start, *relay.last_pieces))
