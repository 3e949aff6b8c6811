"""The record of a request for the pods: where it went, what was predicted, and what came of it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from time import monotonic, time
from typing import Final

from aiohttp import web

from service.routing.accuracy import Usage
from service.routing.choice import Choice
from service.routing.question import Question
from service.routing.request_outcome import RequestOutcome
from service.tracing.base import NOTHING, Arrival, Attempt, Facts, Trace, Tracer

_SANE_ID: Final = re.compile(r"[A-Za-z0-9._:+/=@,-]{1,128}")
ID_HEADER: Final = "X-Request-Id"
_MAX_FACT: Final = 256
_OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}


class RequestRecord(RequestOutcome, kw_only=True):
    """One request for the pods, complete when it has ended. Seconds count from the headers of the request.

    Its pod is the one that answered, or the last one that was tried.
    """

    id: str = ""
    """X-Request-Id of the client if it is a plain word, else one that was made here."""
    received_at: float = 0.0
    """Unix time; 0 if nobody watched when it arrived: then what the gateway does not need is left out."""
    started: float = 0.0
    """The same moment on the monotonic clock."""
    method: str = ""
    path: str = ""
    """Without its query."""
    client: str = ""
    """The address that the connection comes from."""
    is_streamed: bool = False
    prompt_tokens: int | None = None
    """As the engine counts them if it tells, else as counted here."""
    generated_tokens: int | None = None
    seconds: float = 0.0
    status: int = 0
    """As the client got it; 499 if it left before."""
    bytes: int = 0
    """Of the answer's body, with the framing of its chunks."""
    attempts: int = 0
    client_left: bool = False
    error: str | None = None
    """Why there was no answer, or no whole one."""
    trace: Trace = NOTHING

    def note_question(self, question: Question) -> None:
        self.model, self.is_streamed, self.prompt_tokens = question.model, question.is_streamed, question.tokens

    def attempt(self, choice: Choice, *, is_predicted: bool) -> Attempt:
        """Notes that the request is sent to a pod."""
        self.attempts += 1
        self.note_choice(choice, is_predicted=is_predicted)
        return NOTHING if self.trace is NOTHING else self.trace.attempt(_facts_of_attempt(self, choice))

    def note_usage(self, usage: Usage) -> None:
        self.prompt_tokens, self.cached_tokens, self.generated_tokens, _ = usage

    def first_token(self) -> None:
        if self.first_token_seconds is None:
            self.first_token_seconds = monotonic() - self.started


RECORD = web.RequestKey("record", RequestRecord)
"""Set for every request for the pods."""
REQUEST_ID = web.RequestKey("request id", str)
"""Set for a request whose id the engine and the client are told."""


class RequestRecords:
    """Records requests for an access log and for traces."""

    def __init__(self, *, log: Callable[[RequestRecord], None] | None = None, tracer: Tracer = NOTHING) -> None:
        """`log` is called with each request that has ended, and must not raise or block.

        With it, engines and clients get the ids of requests.
        """
        self._log = log
        self._tracer = tracer

    def begin(self, request: web.Request, route: str) -> RequestRecord:
        """The record of a request, which the gateway fills; `route` is the pattern of its path."""
        if self._log is None and not self._tracer.is_on:
            record = request[RECORD] = RequestRecord()
            return record
        record = request[RECORD] = RequestRecord(
            id=sane_id(request) or os.urandom(16).hex(),
            received_at=time(),
            started=monotonic(),
            method=request.method,
            path=request.rel_url.raw_path,
            client=request.remote or "",
        )
        if self._tracer.is_on:
            record.trace = self._tracer.begin(
                Arrival(request.method, route, _cut(record.path), request.scheme, record.client, _context_of(request))
            )
        if self._log is not None:
            request[REQUEST_ID] = record.id
        return record

    def end(self, record: RequestRecord) -> None:
        if not record.received_at:
            return
        record.seconds = monotonic() - record.started
        if record.trace is not NOTHING:
            record.trace.end(record.status, _facts(record), None if record.error is None else _cut(record.error))
        if self._log is not None:
            self._log(record)


def sane_id(request: web.Request) -> str | None:
    """The client's X-Request-Id; None without one, and for one with characters that no id needs or above 128."""
    given = request.headers.get(ID_HEADER)
    return given if given is not None and _SANE_ID.fullmatch(given) else None


def _context_of(request: web.Request) -> dict[str, str]:
    """The W3C trace context of a request."""
    context = {name: request.headers[name] for name in ("traceparent",) if name in request.headers}
    if "tracestate" in request.headers:
        context["tracestate"] = ",".join(request.headers.getall("tracestate"))
    return context


def _facts_of_attempt(record: RequestRecord, choice: Choice) -> Facts:
    entry = choice.pod.entry
    return _known(
        {
            "server.address": entry.host,
            "server.port": entry.port,
            "http.request.resend_count": record.attempts - 1 or None,
            "kvcache.pod": choice.pod.name,
            "kvcache.rank": choice.rank,
            "kvcache.predicted_tokens": record.predicted_tokens,
            "kvcache.predicted_from": record.predicted_from,
        }
    )


def _facts(record: RequestRecord) -> Facts:
    return _known(
        {
            "http.response.body.size": record.bytes,
            "gen_ai.operation.name": _OPERATIONS.get(record.path),
            "gen_ai.request.model": None if record.model is None else _cut(record.model),
            "gen_ai.usage.input_tokens": record.prompt_tokens,
            "gen_ai.usage.output_tokens": record.generated_tokens,
            "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
            "kvcache.request_id": record.id,
            "kvcache.pod": record.pod,
            "kvcache.rank": record.rank,
            "kvcache.predicted_tokens": record.predicted_tokens,
            "kvcache.predicted_from": record.predicted_from,
            "kvcache.first_token_seconds": record.first_token_seconds,
            "kvcache.client_left": record.client_left or None,
        }
    )


def _known(facts: Mapping[str, str | float | None]) -> Facts:
    return {name: value for name, value in facts.items() if value is not None}


def _cut(text: str) -> str:
    return text[:_MAX_FACT]
