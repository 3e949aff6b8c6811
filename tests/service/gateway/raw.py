"""Requests and answers as bytes, without a client's library."""

from __future__ import annotations

import asyncio

from tests.service.conftest import port_of
from tests.service.gateway.routed import Routed


async def raw(routed: Routed, request: bytes) -> tuple[bytes, bytes]:
    """Sends the bytes of a request with `Connection: close`, and returns the head and the body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(routed.client))
    writer.write(request)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head, body


def post(path: str, body: bytes, headers: bytes = b"Content-Type: application/json\r\n") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: here\r\nConnection: close\r\n%bContent-Length: %d\r\n\r\n%b" % (
        path.encode(),
        headers,
        len(body),
        body,
    )
