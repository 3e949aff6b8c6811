"""Forwards requests to engines and returns their answers, both unchanged."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from aiohttp import web

from service.fleet.registry import Registry
from service.gateway.client_request import ClientRequest
from service.gateway.connection import EngineError
from service.gateway.headers import Response, added_headers, send_whole
from service.gateway.http import Head
from service.gateway.relay import Relay, client_transport, without_usage
from service.gateway.retries import Attempts, Exchange, Limits
from service.gateway.routed import ID_HEADER, REQUEST_ID
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
        asked.routed.asked(asked.question)
        exchange = await self._attempts.first_answer(asked)
        try:
            return await self._relay(asked, exchange)
        except BaseException as error:
            exchange.pod.breaker.abandoned()
            exchange.attempt.end(exchange.head.status, type(error).__name__)
            if (told := exchange.choice.reservation.told) is not None:
                told.failed(str(error) or "the client has left")
            raise
        finally:
            exchange.end()
            self._attempts.keep(exchange)

    async def _relay(self, asked: ClientRequest, exchange: Exchange) -> web.StreamResponse:
        head, routed = exchange.head, exchange.routed
        added = added_headers(exchange.choice, asked.origin, names_rank=exchange.sent.names_rank)
        if (identity := asked.http.get(REQUEST_ID)) is not None and head.get(b"x-request-id") is None:
            added.append((ID_HEADER, identity))
        routed.chosen(exchange.choice, is_predicted=asked.origin is not None)
        routed.status = head.status
        response: web.StreamResponse | None = None
        if exchange.read_at is not None:
            response = send_whole(asked.http, client_transport(asked.http), head, added, exchange.start)
            routed.bytes = len(exchange.start)
        end = exchange.start
        if response is None:
            response = Response(head, added, asked.http.version)
            end = await self._stream(asked.http, exchange, response)
        is_ours = exchange.sent.names_rank == exchange.choice.names_rank  # otherwise the client chose the rank
        if head.status == HTTPStatus.OK and (usage := usage_in(end)) is not None:
            routed.used(usage)
            if asked.is_judged and exchange.choice.reservation.told is not None:
                exchange.choice.reservation.told.reused(usage.cached)
            if asked.is_judged and is_ours:
                exchange.came_whole(usage)
                if self._accuracy is not None:
                    self._accuracy.note(exchange.choice, asked.question, usage)
        if head.status < 500:
            exchange.pod.breaker.succeeded()
        else:
            exchange.pod.breaker.abandoned()
        return response

    async def _stream(self, request: web.Request, exchange: Exchange, response: Response) -> bytes:
        """Sends the head and the body as it arrives; returns the end of the body."""
        head, pod, limits = exchange.head, exchange.pod, self._limits
        writer = await response.prepare(request)
        start = without_usage(exchange.start) if exchange.sent.asks_usage else exchange.start
        if start:
            await response.write(start)
        end = exchange.start
        exchange.routed.bytes = len(start)
        if exchange.read_at is None:
            assert writer is not None  # noqa: S101 - the request is not a websocket's
            writer.send_headers()  # aiohttp would delay them until the first piece
            relay = Relay(
                exchange.connection,
                client_transport(request),
                is_chunked=bool(response.chunked),
                is_event_stream=head.is_event_stream,
                on_first=None if exchange.start else exchange.first_token,
                hides_usage=exchange.sent.asks_usage,
                interval=limits.stream_interval,
            )
            try:
                await relay.run(
                    writer,
                    first_byte=limits.silence if exchange.start else limits.first_byte,
                    silence=limits.silence,
                    keep_alive=limits.keep_alive,
                )
            except (EngineError, TimeoutError) as error:
                reason = str(error) or "the engine has fallen silent"
                pod.breaker.failed(reason)
                self.statistics.broken_streams[pod.name] += 1
                exchange.routed.error = f"the engine broke off: {reason}"
                await self._break_off(request, response, head, f"{pod.name}: {reason}")
            finally:
                exchange.routed.bytes += relay.sent_bytes
            end = b"".join((end, *relay.last_pieces))
        await response.write_eof()
        return end

    async def _break_off(self, request: web.Request, response: web.StreamResponse, head: Head, reason: str) -> None:
        """Ends an answer as incomplete, with an error event in a stream. Raises ConnectionError."""
        if head.is_event_stream:
            detail = {"message": f"the engine broke off: {reason}", "type": "server_error", "param": None}
            error = msgspec.json.encode({"error": {**detail, "code": "engine_broke_off"}})
            await response.write(b"data: %b\n\n" % error)
        if request.transport is not None:
            request.transport.close()  # without the last chunk, so that the client sees an incomplete answer
        raise ConnectionResetError(reason)
