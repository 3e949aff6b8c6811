"""Traces by OpenTelemetry's SDK, exported by OTLP over HTTP in a thread of its own.

Spans are made when the client has its answer, except the two whose ids the engine gets. The SDK reads the standard
OTEL_* variables: sampler, resource, headers, timeouts and the bounds of its queue, which drops spans when it is full.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from contextlib import suppress
from time import time_ns
from types import TracebackType
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.tracing.base import NOTHING, Arrival, Attempt, Facts, Headers, Trace

logger = logging.getLogger(__name__)
_CLOSE_SECONDS: Final = 0.5
_TRACES_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_TALKATIVE: Final = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")
"""Loggers that say at each attempt that a collector is down, and that the queue is full."""
_propagator = TraceContextTextMapPropagator()


class OtelTracer:
    """A Tracer."""

    is_on = True

    def __init__(self, endpoint: str, version: str | None) -> None:
        """`endpoint` is the base URL of a collector, to which /v1/traces is added; `version` is ours, if known."""
        url = None if os.environ.get(_TRACES_ENDPOINT) else f"{endpoint}/v1/traces"
        own = {"service.name": "kvcache", "service.instance.id": os.urandom(16).hex()}
        if version is not None:
            own["service.version"] = version
        self._exporter = _Exporter(OTLPSpanExporter(endpoint=url), endpoint)
        self._provider = TracerProvider(
            resource=Resource.create().merge(Resource(own)).merge(OTELResourceDetector().detect()),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("kvcache", version)

    def begin(self, arrival: Arrival) -> Trace:
        span = self._tracer.start_span(
            f"{arrival.method} {arrival.route}",
            context=_propagator.extract(arrival.context),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": arrival.method,
                "http.route": arrival.route,
                "url.path": arrival.path,
                "url.scheme": arrival.scheme,
                "client.address": arrival.client,
            },
        )
        return _Trace(self._tracer, span, arrival)

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        closed = loop.create_future()

        def tell() -> None:
            if not closed.done():
                closed.set_result(None)

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(tell)

        # Not a thread of the loop's, which would wait for it at its end.
        threading.Thread(target=shut_down, name="end of traces", daemon=True).start()
        await asyncio.wait([closed], timeout=_CLOSE_SECONDS)
        self._exporter.shutdown()


class _Trace:
    """A Trace: the span of the request to us, and those of its parts."""

    def __init__(self, tracer: Any, span: Any, arrival: Arrival) -> None:
        self._tracer = tracer
        self._span = span
        self._arrival = arrival
        self._context = set_span_in_context(span)
        self._steps: list[_Step] = []
        self._is_recorded: bool = span.is_recording()
        self.id = f"{span.get_span_context().trace_id:032x}" if self._is_recorded else None

    def step(self, name: str) -> Any:
        if not self._is_recorded:
            return NOTHING.step(name)
        step = _Step(name)
        self._steps.append(step)
        return step

    def attempt(self, facts: Facts) -> Attempt:
        method, route = self._arrival.method, self._arrival.route
        span = self._tracer.start_span(f"{method} {route}", context=self._context, kind=SpanKind.CLIENT)
        if self._is_recorded:
            span.set_attributes({"http.request.method": method, "url.template": route, **facts})
        return _Attempt(span)

    def end(self, status: int, facts: Facts, error: str | None = None) -> None:
        if not self._is_recorded:
            return
        self._is_recorded = False
        for step in self._steps:
            span = self._tracer.start_span(step.name, context=self._context, start_time=step.began)
            if step.error is not None:
                span.set_attribute("error.type", step.error)
                span.set_status(Status(StatusCode.ERROR))
            span.end(step.ended or None)
        self._span.set_attributes({"http.response.status_code": status, **facts})
        if error is not None or status >= 500:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()


class _Step:
    """A part of the work: when it began and ended, in nanoseconds, and the kind of its error."""

    __slots__ = ("began", "ended", "error", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.began = self.ended = 0
        self.error: str | None = None

    def __enter__(self) -> None:
        self.began = time_ns()

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.ended = time_ns()
        self.error = None if kind is None else kind.__name__


class _Attempt:
    """An Attempt."""

    def __init__(self, span: Any) -> None:
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, set_span_in_context(span))
        self._span = span
        self._is_open = True
        self.headers: Headers = [(name.encode(), value.encode()) for name, value in carrier.items()]

    def first_byte(self) -> None:
        self._span.add_event("first byte")

    def end(self, status: int | None = None, error: str | None = None) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        kind = error or (str(status) if status is not None and status >= 400 else None)
        if kind is not None:
            self._span.set_attribute("error.type", kind)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class _Exporter:
    """A span exporter that says once that the collector is down, and once that it is back."""

    def __init__(self, inner: Any, endpoint: str) -> None:
        self._inner = inner
        self._endpoint = endpoint
        self._is_up = True
        self._silenced = {logging.getLogger(name): _LastMessage() for name in _TALKATIVE}
        for talkative, last in self._silenced.items():
            talkative.addFilter(last)

    def export(self, spans: Any) -> Any:
        result = self._inner.export(spans)
        is_up = result is SpanExportResult.SUCCESS
        if is_up and not self._is_up:
            logger.info("the collector of traces at %s takes spans again", self._endpoint)
        elif self._is_up and not is_up:
            logger.warning(
                "the collector of traces at %s takes no spans (OTEL_EXPORTER_OTLP_ENDPOINT); they are dropped until "
                "it does: %s",
                self._endpoint,
                self._silenced[logging.getLogger(_TALKATIVE[0])].text,
            )
        self._is_up = is_up
        return result

    def shutdown(self) -> None:
        """Ends an export that is under way. Idempotent."""
        silenced, self._silenced = self._silenced, {}
        if silenced:
            self._inner.shutdown()
        for talkative, last in silenced.items():
            talkative.removeFilter(last)

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True


class _LastMessage(logging.Filter):
    """Keeps what the SDK says at each attempt out of the log."""

    text = "no reason given"

    def filter(self, record: logging.LogRecord) -> bool:
        self.text = record.getMessage()
        return False
