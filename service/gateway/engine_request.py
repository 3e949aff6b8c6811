"""A client's request as a pod gets it."""

from __future__ import annotations

from functools import lru_cache

import msgspec
from aiohttp import web

from service.contract.pods import PodEntry
from service.gateway.bodies import as_json, with_field, with_prompt
from service.gateway.client_request import ClientRequest
from service.gateway.http import end_to_end, request_head
from service.gateway.request_record import ID_HEADER, REQUEST_ID
from service.index.base import TokenIds
from service.routing.choice import Choice
from service.tracing.base import Headers

_NOT_FORWARDED = frozenset((b"host", b"content-length", b"content-encoding", b"expect"))
"""The body is forwarded decoded, with its own length, to another host."""
_KEYS = frozenset((b"authorization", b"x-api-key"))
RANK_HEADER = "X-data-parallel-rank"
"""Names the rank to vLLM."""
RANK_FIELD = "routed_dp_rank"
"""Names the rank to SGLang, in the body."""
_RANK = RANK_HEADER.encode()
_ID = ID_HEADER.encode()
_TRACE_CONTEXT = frozenset((b"traceparent", b"tracestate"))
_USAGE = b'{"include_usage":true}'

KEY_NAME = web.RequestKey("name of the API key", str)
"""Set for a request with an API key of this service; the key is not forwarded to the engine."""


class EngineRequest(msgspec.Struct, frozen=True):
    """A request as a pod gets it. `names_rank`: whether it asks for the rank that was chosen here.

    `asks_usage`: whether it asks for the usage of a stream, and the client does not.
    """

    head: bytes
    body: bytes
    names_rank: bool
    asks_usage: bool = False


def request_for(asked: ClientRequest, choice: Choice, context: Headers = ()) -> EngineRequest:
    """The client's request, with the engine's key, and with the rank unless the client names one itself.

    `context` is the trace's in place of the client's, if there is any.
    """
    request, body, prompt = asked.http, asked.body, asked.question.prompt
    pod, entry = choice.pod, choice.pod.entry
    is_sglang = pod.is_sglang
    if asked.sends_tokens and prompt is not None:
        body = _with_tokens(request.path, body, prompt.tokens, is_sglang=is_sglang)
    asks_usage = asked.asks_usage and (spliced := with_field(body, "stream_options", _USAGE, asked.around)) is not None
    if asks_usage and spliced is not None:
        body = spliced
    headers = [(name, value) for name, value in end_to_end(request.raw_headers) if name.lower() not in _NOT_FORWARDED]
    if asks_usage:  # its event is looked for in what comes
        headers = [(name, value) for name, value in headers if name.lower() != b"accept-encoding"]
    if pod.key is not None or KEY_NAME in request:
        headers = [(name, value) for name, value in headers if name.lower() not in _KEYS]
    if pod.key is not None:
        headers.append((b"Authorization", b"Bearer " + pod.key.encode()))
    if (identity := request.get(REQUEST_ID)) is not None and identity != request.headers.get(ID_HEADER):
        headers = [header for header in headers if header[0].lower() != _ID.lower()]
        headers.append((_ID, identity.encode()))
    if context:
        headers = [header for header in headers if header[0].lower() not in _TRACE_CONTEXT]
        headers += context
    names_rank = choice.names_rank
    if names_rank and is_sglang:
        spliced = with_field(body, RANK_FIELD, b"%d" % choice.rank, asked.around)
        names_rank, body = spliced is not None, spliced or body
    elif names_rank:
        names_rank = all(name.lower() != _RANK.lower() for name, _ in headers)
        if names_rank:
            headers.append((_RANK, b"%d" % choice.rank))
    if body or request.method not in {"GET", "HEAD", "OPTIONS"}:
        headers.append((b"Content-Length", b"%d" % len(body)))
    host, path = _host_and_path(entry)
    headers.insert(0, (b"Host", host))
    target = (
        request.raw_path if request.raw_path.startswith("/") else request.rel_url.raw_path_qs
    )  # a proxy's has a host
    return EngineRequest(request_head(request.method, path + target, headers), body, names_rank, asks_usage)


@lru_cache(maxsize=4096)
def _host_and_path(entry: PodEntry) -> tuple[bytes, str]:
    """The Host header for a pod, and its base path; parsing its URL takes as long as all other headers."""
    host = f"[{entry.host}]" if ":" in entry.host else entry.host
    return f"{host}:{entry.port}".encode(), entry.path


def _with_tokens(path: str, body: bytes, tokens: TokenIds, *, is_sglang: bool) -> bytes:
    """The body with token ids where the engine takes them: both engines in completions, SGLang also beside a chat."""
    if path == "/v1/completions":
        return with_prompt(body, tokens) or body
    if path == "/v1/chat/completions" and is_sglang:
        return with_field(body, "input_ids", as_json(tokens)) or body
    return body
