"""The headers of a request to an engine, and of the answer to the client."""

from __future__ import annotations

from aiohttp import HttpVersion, HttpVersion11, web
from multidict import CIMultiDict

from service.gateway.http import Head, end_to_end, request_head
from service.routing.choice import Choice, Question

_NOT_FORWARDED = frozenset((b"host", b"content-length", b"content-encoding", b"expect"))
"""The body is forwarded decoded, with its own length, to another host."""

AUTHENTICATED = web.RequestKey("authenticated", bool)
"""Set for a request with an API key of this service; the key is not forwarded to the engine."""


def request_head_for(request: web.Request, body: bytes, choice: Choice) -> bytes:
    """The head of the request to a pod: the client's headers, with the engine's key and rank if it needs them."""
    pod, entry = choice.pod, choice.pod.entry
    headers = [(name, value) for name, value in end_to_end(request.raw_headers) if name.lower() not in _NOT_FORWARDED]
    if pod.key is not None or AUTHENTICATED in request:
        headers = [(name, value) for name, value in headers if name.lower() != b"authorization"]
    if pod.key is not None:
        headers.append((b"Authorization", b"Bearer " + pod.key.encode()))
    if choice.names_rank:
        headers.append((b"X-data-parallel-rank", b"%d" % choice.rank))
    if body or request.method not in {"GET", "HEAD", "OPTIONS"}:
        headers.append((b"Content-Length", b"%d" % len(body)))
    host = f"[{entry.host}]" if ":" in entry.host else entry.host
    headers.insert(0, (b"Host", f"{host}:{entry.port}".encode()))
    return request_head(request.method, entry.path + request.raw_path, headers)


def added_headers(choice: Choice, question: Question) -> list[tuple[str, str]]:
    """The headers that an answer gets here: which pod gave it, and what was predicted."""
    added = [("X-Kvcache-Pod", choice.pod.name)]
    if choice.names_rank:
        added.append(("X-Kvcache-Rank", str(choice.rank)))
    if question.renderer is not None:
        added.append(("X-Kvcache-Predicted-Tokens", str(choice.predicted)))
        added.append(("X-Kvcache-Renderer", question.renderer))
        if question.parity is not None:
            added.append(("X-Kvcache-Parity", question.parity))
    return added


class Response(web.StreamResponse):
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
