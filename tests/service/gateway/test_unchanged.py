"""Requests and answers pass through the gateway as they are."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from contextlib import AsyncExitStack
from random import Random

import pytest

from service.contract.pods import PodEntry
from service.fleet.parity import Verdict
from tests.service.conftest import Serve, port_of
from tests.service.engines import MODEL, StartEngine, chat
from tests.service.gateway.raw import post, raw
from tests.service.gateway.routed import CHAT, Before, Routed
from tests.service.gateway.scripted import Received, answer, scripted
from tests.service.gateway.tap import tapped

BODY = json.dumps(chat("Hello")).encode()


def of_engine(head: bytes) -> set[bytes]:
    """The lines of a head, in lower case, without those that the gateway adds."""
    lines = {line.lower() for line in head.split(b"\r\n")}
    return {line for line in lines if not line.startswith((b"x-kvcache-", b"date:", b"connection:"))}


@pytest.mark.parametrize(
    "status",
    [
        b"400 Bad Request",
        b"401 Unauthorized",
        b"404 Not Found",
        b"405 Method Not Allowed",
        b"409 Conflict",
        b"413 Too Much",
        b"422 Unprocessable Entity",
        b"500 Internal Server Error",
        b"502 Bad Gateway",
        b"504 Gateway Timeout",
        b"529 Site is overloaded",
    ],
)
async def test_status_headers_and_body_of_an_error_are_the_engine_s_after_one_attempt(
    before: Before, status: bytes
) -> None:
    headers = b"content-type: text/odd\r\nX-Odd: a  b\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nServer: engine\r\n"
    routed, engines = await before(answer(b'{"detail" : "odd"}\n', status, headers), 3)
    head, body = await raw(routed, post(CHAT, BODY))
    first, *lines = head.split(b"\r\n")
    assert first == b"HTTP/1.1 " + status
    assert body == b'{"detail" : "odd"}\n'
    assert {line.lower() for line in headers.splitlines()} <= {line.lower() for line in lines}
    assert sum(len(engine.requests) for engine in engines) == 1


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_answers_over_a_kept_connection_are_those_over_one_that_closes(before: Before, is_chunked: bool) -> None:
    body = b'{"object": "odd", "n": 1.0}'
    headers = b"content-type: application/json\r\nX-Odd: a  b\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nServer: me\r\n"

    async def chunked(_: Received, writer: asyncio.StreamWriter) -> None:
        framed = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (9, body[:9], len(body) - 9, body[9:])
        writer.write(b"HTTP/1.1 418 Teapot\r\n%btransfer-encoding: chunked\r\n\r\n%b" % (headers, framed))

    routed, _ = await before(chunked if is_chunked else answer(body, b"418 Teapot", headers))
    head, closed = await raw(routed, post(CHAT, BODY))
    expected = of_engine(head)
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(routed.client))
    for _ in range(2):
        writer.write(post(CHAT, BODY).replace(b"Connection: close\r\n", b""))
        head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
        assert of_engine(head) == expected
        assert head.startswith(b"HTTP/1.1 418 Teapot\r\n")
        kept = await (reader.readuntil(b"0\r\n\r\n") if is_chunked else reader.readexactly(len(body)))
        assert kept == closed
    writer.close()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/audio/transcriptions",
        "/v1/what/engines/will/have?x=%2F&y",
    ],
)
async def test_every_path_of_v1_reaches_an_engine_and_its_answer_the_client(before: Before, path: str) -> None:
    routed, (engine,) = await before(answer(b'{"object":"odd", "n":1.0}'))
    body = b'{"model" : "builtin/demo",\t"input":["a"] ,"unknown":1.0}'
    head, answered = await raw(routed, post(path, body))
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert f"X-Kvcache-Pod: {engine.pod}".encode() in head
    assert answered == b'{"object":"odd", "n":1.0}'
    assert [(one.method, one.target, one.body) for one in engine.requests] == [("POST", path, body)]


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PUT", "PATCH", "OPTIONS"])
async def test_every_method_reaches_an_engine(before: Before, method: str) -> None:
    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        body = b"" if method == "HEAD" else b"ok"
        writer.write(b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 2\r\n\r\n" + body)

    routed, (engine,) = await before(respond)
    for _ in range(2):  # over kept connections
        async with routed.client.request(
            method, "/v1/chat/completions" if method == "OPTIONS" else "/v1/x/1"
        ) as answered:
            assert (answered.status, answered.headers["Access-Control-Allow-Origin"]) == (200, "*")
            assert (answered.headers["Content-Length"], await answered.read()) == (
                "2",
                b"" if method == "HEAD" else b"ok",
            )
    assert [one.method for one in engine.requests] == [method, method]
    lengths = [value for name, value in engine.requests[0].headers if name == b"Content-Length"]
    assert lengths == ([b"0"] if method in {"DELETE", "PUT", "PATCH"} else [])


async def test_a_target_with_a_host_is_the_path_that_it_names(before: Before) -> None:
    routed, (engine,) = await before(answer(b"{}"))
    await raw(routed, post("http://there:1/v1/rerank?x=%2F", BODY))
    assert engine.requests[0].target == "/v1/rerank?x=%2F"


@pytest.mark.parametrize("path", ["/v1/files/a..b", "/v1/.well-known", "/v1/files/a.txt"])
async def test_dots_in_names_are_names(before: Before, path: str) -> None:
    routed, (engine,) = await before(answer(b"{}"))
    await raw(routed, post(path, BODY))
    assert [one.target for one in engine.requests] == [path]


async def test_a_body_that_is_not_json_reaches_the_engine(before: Before) -> None:
    routed, (engine,) = await before(answer(b"ok"))
    body = Random(1).randbytes(5000)
    await raw(routed, post("/v1/audio/transcriptions", body, b"Content-Type: multipart/form-data; boundary=b\r\n"))
    assert engine.requests[0].body == body
    assert (b"Content-Type", b"multipart/form-data; boundary=b") in engine.requests[0].headers


async def test_an_answer_that_is_no_json_is_passed_on_piece_by_piece(before: Before) -> None:
    goes_on = asyncio.Event()

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: audio/wav\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nRIFF\r\n")
        await goes_on.wait()
        writer.write(b"4\r\nWAVE\r\n0\r\n\r\n")

    routed, _ = await before(respond)
    async with routed.client.post("/v1/audio/speech", json={"model": MODEL, "input": "Hi"}) as response:
        assert await response.content.readexactly(4) == b"RIFF"
        goes_on.set()
        assert await response.read() == b"WAVE"


async def test_all_headers_of_a_request_but_those_of_its_connection_reach_the_engine_in_order(before: Before) -> None:
    routed, (engine,) = await before(answer(b"{}"))
    kept = (
        b"x-request-id: 1\r\nX-Twice: a\r\nX-Twice: b\r\ntraceparent: 00-1\r\ntracestate: t\r\n"
        b"Authorization: Bearer c\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nUser-Agent: odd\r\nCookie: c=1\r\n"
    )
    await raw(routed, post(CHAT, BODY, kept + b"Keep-Alive: 5\r\nTE: trailers\r\nUpgrade: h2c\r\n"))
    received = [b"%b: %b" % header for header in engine.requests[0].headers]
    own = [f"Host: {engine.pod}".encode(), b"Content-Length: %d" % len(BODY)]
    assert [line for line in received if line not in own] == kept.splitlines()


async def test_an_answer_names_its_engine(before: Before) -> None:
    routed, engines = await before(answer(b"{}"), 3)
    for number in range(6):
        async with routed.client.post(CHAT, json=chat(f"Hello {number}")) as response:
            asked = [engine.pod for engine in engines if engine.requests]
            assert [response.headers["X-Kvcache-Pod"]] == asked
        for engine in engines:
            engine.requests.clear()


async def test_a_body_of_12_megabytes_reaches_the_engine_unchanged(before: Before) -> None:
    routed, (engine,) = await before(answer(b"{}"), max_prompt_characters=1000)
    body = json.dumps(chat("word " * 2_400_000)).encode()
    assert len(body) > 12_000_000
    async with routed.client.post(CHAT, data=io.BytesIO(body)) as response:
        assert response.status == 200
    assert hashlib.sha256(engine.requests[0].body).digest() == hashlib.sha256(body).digest()


async def test_the_models_are_those_of_all_pods_and_each_request_goes_to_a_pod_that_serves_its_model(
    serve: Serve,
) -> None:
    async with scripted(answer(b"{}"), "a", "both") as first, scripted(answer(b"{}"), "b", "both") as second:
        pods = tuple(PodEntry(engine.url, engine.pod) for engine in (first, second))
        routed = Routed(await serve(pods=pods), [])
        await routed.until_healthy(2)
        async with routed.client.get("/v1/models") as response:
            assert [card["id"] for card in (await response.json())["data"]] == ["a", "b", "both"]
        for path in (CHAT, "/v1/embeddings", "/v1/responses"):
            for model, engine in (("a", first), ("b", second)):
                async with routed.client.post(path, json={"model": model, "input": "x"}) as response:
                    assert (response.status, response.headers["X-Kvcache-Pod"]) == (200, engine.pod)
            async with routed.client.post(path, json={"model": "none", "input": "x"}) as response:
                assert response.status == 404
    assert len(first.requests) == len(second.requests) == 3


@pytest.mark.parametrize("body", [b'{"model', b"", b"[]", b"\xff", b'{"model": 5}', b'{"model": "builtin/demo"}'])
async def test_a_body_that_kvcache_cannot_read_is_the_engine_s_to_refuse(before: Before, body: bytes) -> None:
    routed, engines = await before(answer(b'{"error":"engine"}', b"400 Bad Request"), 2)
    head, answered = await raw(routed, post(CHAT, body))
    assert head.startswith(b"HTTP/1.1 400")
    assert answered == b'{"error":"engine"}'
    assert [one.body for engine in engines for one in engine.requests] == [body]


async def test_a_request_costs_its_engine_that_request_and_the_others_nothing(
    start_engine: StartEngine, serve: Serve
) -> None:
    async with AsyncExitStack() as stack:
        engines = [await start_engine(seed=number) for number in range(3)]
        taps = [await stack.enter_async_context(tapped(int(engine.pod.split(":")[1]))) for engine in engines]
        pods = tuple(PodEntry(tap.url, engine.pod) for tap, engine in zip(taps, engines, strict=True))
        routed = Routed(await serve(pods=pods, health_interval=600.0), engines)
        await routed.until_pods(
            lambda pods: all(pod["parity"] and pod["parity"][0]["verdict"] == Verdict.EQUAL for pod in pods.values())
        )
        for tap in taps:
            tap.sent = b""
        for number in range(5):
            for path, body in ((CHAT, chat(f"Hello {number}")), ("/v1/completions", {"model": MODEL, "prompt": "Hi"})):
                async with routed.client.post(path, json=body) as response:
                    assert response.status == 200
                    assert "X-Kvcache-Predicted-Tokens" in response.headers
        paths = [path for tap in taps for path in tap.paths if path != "/metrics"]
        assert sorted(paths) == [CHAT] * 5 + ["/v1/completions"] * 5
