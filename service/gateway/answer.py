"""The answer to the client: the engine's, with headers that name its pod."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, hdrs, web

from service.gateway.client_request import TokenOrigin
from service.gateway.http import Head, response_head
from service.routing.choice import Basis, Choice

_MAX_UNSENT: Final = 64 << 10
_WITHOUT_BODY: Final = frozenset((HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED))
_LAST_CHUNK: Final = b"0\r\n\r\n"

IS_LAST = web.RequestKey("is last", bool)
"""Set for a request whose answer is the last of its connection: the service stops, or other workers have fewer."""


def added_headers(choice: Choice, origin: TokenOrigin | None, *, names_rank: bool) -> list[tuple[str, str]]:
    """The headers that an answer gets here: which pod gave it, and what was predicted if that was certain."""
    added = [("X-Kvcache-Pod", choice.pod.name)]
    if names_rank:
        added.append(("X-Kvcache-Rank", str(choice.rank)))
    if origin is not None:
        if choice.basis is not Basis.PLACEMENT:
            added.append(("X-Kvcache-Predicted-Tokens", str(choice.predicted)))
        added.append(("X-Kvcache-Predicted-From", choice.basis))
        added.append(("X-Kvcache-Renderer", origin.renderer))
        if origin.parity is not None:
            added.append(("X-Kvcache-Parity", origin.parity))
    return added


class Answer(web.StreamResponse):
    """An answer whose bytes are written here: aiohttp's writer would add headers, and lose bytes of others."""

    def __init__(self, request: web.Request, head: Head, added: list[tuple[str, str]]) -> None:
        """Raises ConnectionError if the client has left."""
        super().__init__(status=head.status)
        self._eof_sent = True  # nothing is left to aiohttp
        self._request = request
        self.transport = client_transport(request)
        has_body = request.method != hdrs.METH_HEAD and head.status not in _WITHOUT_BODY
        is_1_1, has_length = request.version == HttpVersion11, head.get(b"content-length") is not None
        self.is_chunked = has_body and is_1_1 and not has_length
        """Whether the body has the framing of chunks."""
        has_end = self.is_chunked or has_length or not has_body
        self._keep_alive = request.keep_alive and has_end and IS_LAST not in request
        lines = [(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in added]
        if self.is_chunked:
            lines.append((b"Transfer-Encoding", b"chunked"))
        if self._keep_alive != is_1_1:
            lines.append((b"Connection", b"keep-alive" if self._keep_alive else b"close"))
        self._head = response_head(head, lines)
        if not is_1_1:
            self._head = b"HTTP/1.0" + self._head.removeprefix(b"HTTP/1.1")

    def begin(self, piece: bytes) -> None:
        """Sends the head and the first piece of the body, which may be empty, in one packet."""
        self._write(self._head + self._framed(piece))

    def send(self, piece: bytes) -> None:
        """Sends a further piece."""
        self._write(self._framed(piece))

    async def end(self) -> None:
        """Ends the body, and waits until the client has read most of it."""
        if self.is_chunked:
            self._write(_LAST_CHUNK)
        await self._drain()

    async def send_whole(self, body: bytes) -> None:
        """Sends the head and the whole body in one packet."""
        self._write(b"".join((self._head, self._framed(body), _LAST_CHUNK if self.is_chunked else b"")))
        await self._drain()

    def _framed(self, piece: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self.is_chunked and piece else piece

    def _write(self, sent: bytes) -> None:
        self._request.writer.output_size += len(sent)  # a later error must not become a second response
        self.transport.write(sent)

    async def _drain(self) -> None:
        if self.transport.get_write_buffer_size() > _MAX_UNSENT:
            await self._request.writer.drain()


def client_transport(request: web.Request) -> asyncio.Transport:
    """The client's connection. Raises ConnectionError if the client has left."""
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has left")
    return transport
