"""Answers that no known engine gives, but one may, or a server before it."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from contextlib import suppress

import aiohttp
import pytest

from service.gateway.connection import EngineConnection
from service.gateway.retries import Limits
from tests.service.engines import chat
from tests.service.gateway.bare import bare_gateway
from tests.service.gateway.raw import post, raw
from tests.service.gateway.routed import CHAT, Before
from tests.service.gateway.scripted import Received, Respond, scripted
from tests.waiting import PATIENCE

BODY = b'{"model": "builtin/demo", "messages": []}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
STREAM = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
TOKEN = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
USAGE = b'data: {"id":"1","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}}\n\n'
DONE = b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def always(data: bytes, *, closes: bool = False) -> Respond:
    """Responds with these bytes, and closes the connection if it `closes`."""

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if closes:
            await writer.drain()
            writer.close()

    return respond


def of_engine(head: bytes) -> list[bytes]:
    return [line for line in head.split(b"\r\n") if not line.startswith(b"X-Kvcache-")]


@pytest.mark.parametrize("content_type", [b"Content-Type: text/odd\r\n", b"Content-Type: application/json\r\n", b""])
@pytest.mark.parametrize("path", [CHAT, "/v1/rerank"])
async def test_the_head_is_the_engine_s_byte_by_byte_and_nothing_is_added_but_names(
    before: Before, content_type: bytes, path: str
) -> None:
    lines = b"HTTP/1.1 200 \r\n" + content_type + b"X-Odd: caf\xe9 \xff\r\nx-odd: a  b\r\nContent-Length: 5\r\n"
    routed, _ = await before(always(lines + b"\r\nhello"))
    head, body = await raw(routed, post(path, BODY))
    assert of_engine(head) == [*lines.split(b"\r\n")[:-1], b"Connection: close"]
    assert body == b"hello"


@pytest.mark.parametrize("content_type", [b"text/plain", b"application/json"])
async def test_chunks_count_where_an_engine_also_names_a_length(before: Before, content_type: bytes) -> None:
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" % content_type
    )
    routed, _ = await before(always(head + chunk(b"hello") + b"0\r\n\r\n"))
    async with routed.client.post(CHAT, data=BODY) as response:
        assert "Content-Length" not in response.headers
        assert await response.read() == b"hello"


async def test_an_answer_with_two_lengths_is_none(before: Before) -> None:
    routed, _ = await before(always(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello"))
    async with routed.client.post(CHAT, data=BODY) as response:
        assert response.status == 502


async def test_a_stored_message_is_no_answer_that_an_engine_aborted(before: Before) -> None:
    stored = b'{"id":"msg_1","type":"message","role":"user","content":[]}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(stored)
    routed, _ = await before(always(head + stored))
    async with routed.client.get("/v1/conversations/1/items/msg_1") as response:
        assert (response.status, await response.read()) == (200, stored)


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_an_answer_without_a_body_leaves_the_connection_for_the_next(before: Before, status: bytes) -> None:
    routed, (engine,) = await before(always(b"HTTP/1.1 %b\r\nETag: 1\r\n\r\n" % status))
    for _ in range(2):
        async with routed.client.delete("/v1/files/1") as response:
            assert response.status == int(status[:3])
            assert (response.headers["ETag"], await response.read()) == ("1", b"")
    assert [one.method for one in engine.requests] == ["DELETE", "DELETE"]


@pytest.mark.parametrize("kind", [b"text/event-stream", b"application/json"])
async def test_an_answer_of_http_1_0_ends_with_its_connection(before: Before, kind: bytes) -> None:
    routed, _ = await before(always(b"HTTP/1.0 200 OK\r\nContent-Type: %b\r\n\r\n" % kind + TOKEN, closes=True))
    async with routed.client.post(CHAT, json=chat("Hello", stream=True)) as response:
        assert await response.read() == TOKEN


@pytest.mark.parametrize("kind", [b"text/event-stream", b"text/plain"])
async def test_an_answer_without_a_length_that_ends_in_a_reset_is_broken(before: Before, kind: bytes) -> None:
    seen = asyncio.Event()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: %b\r\n\r\n" % kind + TOKEN)
        await seen.wait()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    routed, _ = await before(respond)
    async with routed.client.post(CHAT, json=chat("Hello", stream=True)) as response:
        assert await response.content.readexactly(len(TOKEN)) == TOKEN
        seen.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


@pytest.mark.parametrize("body", [b"x" * 300_000, b"x"])
async def test_a_client_of_http_1_0_may_keep_its_connection_for_answers_with_a_length(
    before: Before, body: bytes
) -> None:
    routed, _ = await before(always(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body))
    request = post(CHAT, BODY).replace(b"HTTP/1.1", b"HTTP/1.0")
    head, answered = await raw(routed, request.replace(b"Connection: close", b"Connection: keep-alive") + request)
    assert b"Connection: keep-alive" in head
    first, second = answered[: len(body)], answered[len(body) :]
    assert first == body
    assert second.partition(b"\r\n\r\n")[2] == body


def in_pieces(stream: bytes, size: int) -> Respond:
    """Responds with a stream whose chunks have a size, and leave one after the other."""

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        for at in range(0, len(stream), size):
            writer.write(chunk(stream[at : at + size]))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")

    return respond


@pytest.mark.parametrize("size", [7, 60, 1000])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
async def test_a_usage_that_the_client_did_not_ask_for_is_hidden_however_it_comes(
    before: Before, size: int, line_end: bytes
) -> None:
    stream, shown = (data.replace(b"\n", line_end) for data in (TOKEN + USAGE + DONE, TOKEN + DONE))
    routed, (engine,) = await before(in_pieces(stream, size), ask_usage=True)
    headers = {"Accept-Encoding": "gzip"}
    async with routed.client.post(CHAT, json=chat("Hello", stream=True), headers=headers) as response:
        assert await response.read() == shown
    assert b"include_usage" in engine.requests[0].body
    assert b"accept-encoding" not in {name.lower() for name, _ in engine.requests[0].headers}


async def test_an_engine_that_dies_within_an_event_leaves_one_that_tells_so(before: Before) -> None:
    seen = asyncio.Event()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunk(TOKEN) + chunk(TOKEN[:20]))
        await seen.wait()
        writer.transport.abort()

    routed, _ = await before(respond)
    received = b""
    async with routed.client.post(CHAT, json=chat("Hello", stream=True)) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            async for piece in response.content.iter_any():
                received += piece
                if len(received) == len(TOKEN) + 20:
                    seen.set()
    whole, cut, error, rest = received.split(b"\n\n")
    assert (whole + b"\n\n", cut, rest) == (TOKEN, TOKEN[:20], b"")
    assert error.startswith(b'data: {"error":')


PLAIN = [STREAM + chunk(TOKEN), chunk(TOKEN) + b"0\r\n\r\n"]
CUT = [STREAM + chunk(TOKEN + TOKEN[:20]), chunk(TOKEN[20:]) + b"0\r\n\r\n"]
PACKED = gzip.compress(TOKEN)
COMPRESSED = [
    STREAM.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n") + chunk(PACKED[:10]),
    chunk(PACKED[10:]) + b"0\r\n\r\n",
]
WITH_LENGTH = [HEAD + b"Content-Length: %d\r\n\r\n" % (2 * len(TOKEN)) + TOKEN, TOKEN]


@pytest.mark.parametrize(
    ("parts", "body", "comments"),
    [
        (PLAIN, TOKEN + TOKEN, True),
        (CUT, TOKEN + TOKEN, False),
        (COMPRESSED, PACKED, False),
        (WITH_LENGTH, TOKEN + TOKEN, False),
    ],
    ids=["between events", "within an event", "compressed", "with a length"],
)
async def test_comments_are_added_only_where_they_change_nothing(
    parts: list[bytes], body: bytes, comments: bool
) -> None:
    goes_on = asyncio.Event()

    async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
        first, second = PLAIN if b"clock" in received.body else parts
        writer.write(first)
        await goes_on.wait()
        writer.write(second)

    async with (
        scripted(respond) as engine,
        bare_gateway(engine.url, engine.pod, Limits(silence=PATIENCE, keep_alive=0.02)) as url,
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.post(url + CHAT, json=chat("Hello", stream=True)) as response,
        session.post(url + CHAT, json=chat("clock", stream=True)) as clock,  # its comments tell that time has passed
    ):
        assert await clock.content.readuntil(b"\n\n") == TOKEN
        for _ in range(2):
            assert await clock.content.readuntil(b"\n\n") == b": keep-alive\n\n"
        goes_on.set()
        received = await response.read()
    assert (b": keep-alive\n\n" in received) == comments
    assert received.replace(b": keep-alive\n\n", b"") == body


@pytest.mark.parametrize(("size", "is_reusable"), [(0, True), (32 << 20, False)])
async def test_a_connection_whose_request_was_not_read_to_its_end_carries_no_other(
    size: int, is_reusable: bool
) -> None:
    is_over, is_closed = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\n\r\nno")
        await is_over.wait()  # it reads no more than its limit
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()
        is_closed.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
    port = server.sockets[0].getsockname()[1]
    async with server:
        _, connection = await asyncio.get_running_loop().create_connection(EngineConnection, "127.0.0.1", port)
        head = await connection.exchange("POST", b"POST /v1/files HTTP/1.1\r\n\r\n", b"x" * size, PATIENCE)
        assert (head.status, await connection.read(PATIENCE)) == (413, b"no")
        assert connection.is_reusable == is_reusable
        connection.close()
        is_over.set()
        await is_closed.wait()
