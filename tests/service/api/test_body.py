from __future__ import annotations

import asyncio
import gzip
import json
import socket
import zlib
from io import BytesIO

import pytest
from aiohttp import ClientSession

from tests.service.api.conftest import post
from tests.service.conftest import Serve, port_of
from tests.waiting import PATIENCE

BODY = json.dumps({"prompt": [1, 2, 3], "note": "x" * 1000}).encode()


async def sent(client: ClientSession, body: bytes, encoding: str | None = None) -> tuple[int, str | None]:
    """Status and error message of a body that is sent as it is."""
    headers = {"Content-Encoding": encoding} if encoding else {}
    async with client.post("/score", data=BytesIO(body), headers=headers) as answer:
        found = await answer.json()
        return answer.status, found["error"]["message"] if answer.status != 200 else None


async def test_a_body_may_be_compressed_with_gzip_or_deflate(serve: Serve) -> None:
    client = await serve()
    raw_deflate = zlib.compressobj(wbits=-15)
    for body, encoding in (
        (gzip.compress(BODY), "gzip"),
        (gzip.compress(BODY), "GZIP"),
        (zlib.compress(BODY), "deflate"),
        (raw_deflate.compress(BODY) + raw_deflate.flush(), "deflate"),
        (BODY, "identity"),
    ):
        assert await sent(client, body, encoding) == (200, None)


async def test_a_compressed_body_that_is_broken_or_of_unknown_encoding_is_rejected(serve: Serve) -> None:
    client = await serve()
    for body, encoding, status in (
        (gzip.compress(BODY)[:-9], "gzip", 400),
        (b"nonsense", "gzip", 400),
        (BODY, "br", 415),
        (BODY, "gzip, gzip", 415),
    ):
        assert (await sent(client, body, encoding))[0] == status


async def test_a_compression_bomb_is_inflated_no_further_than_the_limit(serve: Serve) -> None:
    client = await serve(max_body_bytes=1 << 20)
    bomb = gzip.compress(bytes(200 << 20))
    before = await cpu_seconds(client)
    status, message = await sent(client, bomb, "gzip")
    assert status == 413
    assert message is not None and "MAX_BODY_BYTES" in message
    assert await cpu_seconds(client) - before < 0.2  # all of it takes more than half a second


async def cpu_seconds(client: ClientSession) -> float:
    text = await (await client.get("/metrics")).text()
    return float(text.rpartition("\nprocess_cpu_seconds_total ")[2].partition("\n")[0])


async def test_a_body_that_arrives_too_slowly_gets_408(serve: Serve) -> None:
    client = await serve(body_timeout=6.0, min_body_rate=1 << 20)  # the rate is judged each sixth of it
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(client))
    writer.write(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{")
    answer = await asyncio.wait_for(reader.readuntil(b"}}"), PATIENCE)
    writer.close()
    assert b" 408 " in answer
    assert b"MIN_BODY_RATE" in answer


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": [' + b"{}," * 400_000 + b"{}]}",
        b'{"prompt": [' + b"[1]," * 400_000 + b"[1]]}",
        b'{"prompt": "a", "x": {' + b'"a":1,' * 400_000 + b'"a":1}}',
        b'{"prompt": "a", "pods": [' + b'"",' * 2_000_000 + b'""]}',
    ],
    ids=["messages", "prompts", "members", "pods"],
)
async def test_a_large_body_of_too_many_values_is_rejected_before_it_is_decoded(serve: Serve, body: bytes) -> None:
    client = await serve()
    status, message = await sent(client, body)
    assert status == 413
    assert message is not None and "MAX_MESSAGES" in message
    assert await post(client, "/score", {"prompt": "a" * 1_000_000, "add_special_tokens": False}) is None


async def test_a_large_text_of_json_is_one_value(serve: Serve) -> None:
    client = await serve()
    text = json.dumps([{"a": [1, 2, '"']}] * 60_000)
    assert await post(client, "/score", {"prompt": text}) is None


async def test_bytes_of_bodies_in_flight_are_limited(serve: Serve) -> None:
    client = await serve(max_bytes_in_flight=1 << 20)
    loop = asyncio.get_running_loop()
    holding = socket.create_connection(("127.0.0.1", port_of(client)))
    with holding:
        holding.setblocking(False)
        head = b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n"
        await loop.sock_sendall(holding, head + b" " * 900_000)
        async with asyncio.timeout(PATIENCE):
            while "kvcache_http_bytes_in_flight 900000" not in await (await client.get("/metrics")).text():
                pass
        status, message = await sent(client, json.dumps({"prompt": "x" * 500_000}).encode())
    assert status == 429
    assert message is not None and "MAX_BYTES_IN_FLIGHT" in message
