from __future__ import annotations

import asyncio
import gzip
import json
import socket
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.service.conftest import Serve, port_of
from tests.waiting import PATIENCE

HEAD = b"Host: localhost\r\n"


async def connected(client: ClientSession, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection with bytes that are there when the service begins to look, so that no time passes before them."""
    raw = socket.create_connection(("127.0.0.1", port_of(client)))
    raw.sendall(sent)
    return await asyncio.open_connection(sock=raw)


async def exchange(client: ClientSession, sent: bytes, until: bytes = b"") -> bytes:
    """Sends raw bytes and gives the response, up to `until` or to the end of the connection."""
    reader, writer = await connected(client, sent)
    try:
        return await asyncio.wait_for(reader.readuntil(until) if until else reader.read(), PATIENCE)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def status_and_error(answer: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return int(head.split()[1]), error


async def test_headers_that_arrive_too_late_get_408(serve: Serve) -> None:
    client = await serve(header_timeout=0.2)
    status, error = status_and_error(await exchange(client, b"GET /health HTTP/1.1\r\n" + HEAD))
    assert status == 408
    assert error["code"] == "request_timeout"


async def test_headers_that_trickle_in_are_disconnected_at_the_same_timeout(serve: Serve) -> None:
    client = await serve(header_timeout=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(client))

    async def trickle() -> None:
        writer.write(b"GET /health HTTP/1.1\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(b"X-A: b\r\n")
                await writer.drain()
                await asyncio.sleep(0.02)

    trickling = asyncio.create_task(trickle())
    try:
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                assert b"408" in await reader.read()
    finally:
        trickling.cancel()
        writer.close()


async def test_a_silent_connection_is_closed(serve: Serve) -> None:
    client = await serve(header_timeout=0.2)
    assert await exchange(client, b"") == b""


async def test_slow_headers_of_a_second_request_get_408_too(serve: Serve) -> None:
    client = await serve(header_timeout=0.2)
    reader, writer = await connected(client, b"GET /health HTTP/1.1\r\n" + HEAD + b"\r\n")
    assert (await reader.readuntil(b"OK")).startswith(b"HTTP/1.1 200")
    writer.write(b"GET /health HTTP/1.1\r\n")
    assert b"HTTP/1.1 408" in await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()


async def test_an_idle_connection_stays_open_for_the_keepalive_timeout(serve: Serve) -> None:
    client = await serve(header_timeout=0.1, keepalive_timeout=0.6)
    started = asyncio.get_running_loop().time()
    answer = await exchange(client, b"GET /health HTTP/1.1\r\n" + HEAD + b"\r\n")
    assert asyncio.get_running_loop().time() - started > 0.5
    assert answer.count(b"HTTP/1.1") == 1


async def test_a_body_that_does_not_arrive_gets_408(serve: Serve) -> None:
    client = await serve(body_timeout=0.1)
    begun = b"POST /score HTTP/1.1\r\n" + HEAD + b'Content-Length: 10\r\n\r\n{"'
    status, error = status_and_error(await exchange(client, begun, until=b"}}"))
    assert (status, error["code"]) == (408, "request_timeout")
    assert "BODY_" in error["message"]


async def test_a_body_that_trickles_in_for_too_long_gets_408(serve: Serve) -> None:
    client = await serve(body_timeout=0.3, min_body_rate=1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(client))
    writer.write(b"POST /score HTTP/1.1\r\n" + HEAD + b"Content-Length: 1000000\r\n\r\n")

    async def trickle() -> None:
        with suppress(ConnectionError):
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)

    trickling = asyncio.create_task(trickle())
    try:
        status, error = status_and_error(await asyncio.wait_for(reader.readuntil(b"}}"), PATIENCE))
    finally:
        trickling.cancel()
        writer.close()
    assert (status, error["code"]) == (408, "request_timeout")


async def test_a_body_that_is_too_large_gets_413(serve: Serve) -> None:
    client = await serve(max_body_bytes=1000)
    async with client.post("/score", data=b'{"prompt": "' + b"x" * 10_000 + b'"}') as answer:
        error = (await answer.json())["error"]
    assert answer.status == 413
    assert "MAX_BODY_BYTES" in error["message"]


async def test_a_compressed_body_is_limited_by_its_inflated_size(serve: Serve) -> None:
    client = await serve(max_body_bytes=1000)
    async with client.post(
        "/score", data=gzip.compress(b" " * 1_000_000), headers={"Content-Encoding": "gzip"}
    ) as answer:
        assert answer.status == 413


INVALID_REQUESTS = (
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    (b"hello\r\n\r\n", 400),
    (b"GET /health HTTP/9.9\r\n" + HEAD + b"\r\n", 400),
    (b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n" + HEAD + b"\r\n", 400),
    (b"GET /\xff HTTP/1.1\r\n" + HEAD + b"\r\n", 400),
    (b"POST /score HTTP/1.1\r\n" + HEAD + b"Content-Length: many\r\n\r\n", 400),
    (b"POST /score HTTP/1.1\r\nConnection: close\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    (
        b"POST /score HTTP/1.1\r\nConnection: close\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n"
        + HEAD
        + b"\r\nabc",
        400,
    ),
    (
        b"POST /score HTTP/1.1\r\nConnection: close\r\nExpect: a miracle\r\nContent-Length: 0\r\n" + HEAD + b"\r\n",
        417,
    ),
    (b"POST /nothing HTTP/1.1\r\nConnection: close\r\nExpect: it\r\nContent-Length: 0\r\n" + HEAD + b"\r\n", 417),
    (b"BREW /health HTTP/1.1\r\n" + HEAD + b"\r\n", 400),
    (b"PATCH /health HTTP/1.1\r\nConnection: close\r\n" + HEAD + b"\r\n", 405),
    (b"GET /nothing HTTP/1.1\r\nConnection: close\r\n" + HEAD + b"\r\n", 404),
)


async def test_invalid_http_and_unknown_paths_get_errors_in_openais_form(
    serve: Serve, caplog: pytest.LogCaptureFixture, subtests: pytest.Subtests
) -> None:
    client = await serve()
    for request, status in INVALID_REQUESTS:
        with subtests.test(request=request):
            got, error = status_and_error(await exchange(client, request))
            assert got == status
            assert "bytearray" not in error["message"]
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def test_a_client_that_disconnects_within_a_body_causes_no_log_line(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    client = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(client))
    writer.write(b"POST /score HTTP/1.1\r\n" + HEAD + b'Content-Length: 10\r\n\r\n{"')
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    writer.close()
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def test_head_gives_the_headers_of_get(serve: Serve) -> None:
    client = await serve()
    for path in ("/health", "/pods", "/metrics", "/v1/models", "/openapi.json"):
        async with client.head(path) as head, client.get(path) as get:
            assert head.status == get.status == 200
            assert head.headers["Content-Type"] == get.headers["Content-Type"]
            assert await head.read() == b""


async def test_headers_of_32_kb_are_accepted_and_more_than_64_kb_get_431(serve: Serve) -> None:
    client = await serve()
    async with client.get("/health", headers={"Authorization": "x" * 32_000}) as answer:
        assert answer.status == 200
    many = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 8000) for number in range(10))
    status, error = status_and_error(await exchange(client, b"GET /health HTTP/1.1\r\n" + HEAD + many))
    assert (status, error["code"]) == (431, "headers_too_large")


async def test_responses_do_not_name_versions(serve: Serve) -> None:
    client = await serve()
    for path in ("/health", "/nothing", "/pods", "/score"):
        async with client.get(path) as answer:
            assert answer.headers["Server"] == "kvcache"
    assert b"Server: kvcache\r\n" in await exchange(client, b"hello\r\n\r\n")
