from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

from aiohttp import ClientSession

from tests.service.api.conftest import post
from tests.service.conftest import Serve, port_of
from tests.service.engines import chat
from tests.service.prompts.fake_hub import FakeHub, Repository
from tests.waiting import PATIENCE


async def until_metric(client: ClientSession, line: str) -> None:
    """Waits for a line of /metrics."""
    async with asyncio.timeout(PATIENCE):
        while line not in await (await client.get("/metrics")).text():
            pass


async def in_flight(client: ClientSession, number: int) -> None:
    """Waits until that many requests are in flight."""
    await until_metric(client, f"kvcache_http_requests_in_flight {number}.0")


async def admitted(client: ClientSession, number: int) -> None:
    """Waits until that many requests hold a place."""
    await until_metric(client, f"kvcache_http_requests_admitted {number}.0")


async def test_requests_above_the_limit_get_429_and_retry_after(serve: Serve, hub: FakeHub) -> None:
    hub.repositories["org/slow"] = Repository({}, silent=True)
    client = await serve(max_requests_in_flight=2, models=("*",), hub_timeout=1000.0)
    slow = {"prompt": "a text", "model": "org/slow"}
    long = [asyncio.create_task(post(client, "/score", slow)) for _ in range(2)]
    await admitted(client, 2)
    async with client.post("/score", json={"prompt": [1]}) as answer:
        error = (await answer.json())["error"]
    assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
    assert error["type"] == "rate_limit_error"
    assert "MAX_REQUESTS_IN_FLIGHT" in error["message"] or "MAX_REQUESTS_PER_PEER" in error["message"]
    for path in ("/health", "/ready", "/pods", "/metrics"):
        async with client.get(path) as answer:
            assert answer.status in (200, 503)
    for task in long:
        task.cancel()
    await admitted(client, 0)
    await post(client, "/score", {"prompt": [1]})


async def test_bodies_that_have_not_arrived_do_not_take_the_place_of_others(serve: Serve) -> None:
    client = await serve(max_requests_in_flight=1)
    finish = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'{"prompt": '
        await finish.wait()
        yield b"[1, 2, 3]}"

    slow = [asyncio.create_task(client.post("/score", data=body())) for _ in range(3)]
    await in_flight(client, 3)
    await post(client, "/score", {"prompt": [1]})
    finish.set()
    statuses = [answer.status for answer in await asyncio.gather(*slow)]
    assert statuses.count(200) >= 1


async def test_a_hundred_requests_are_answered_concurrently(serve: Serve) -> None:
    client = await serve()
    answers = await asyncio.gather(*(post(client, "/score", {"prompt": f"text {n} " * n}) for n in range(100)))
    assert answers == [None] * 100


async def test_long_texts_are_tokenized_off_the_event_loop(serve: Serve) -> None:
    client = await serve()
    random_ = random.Random(1)

    for texts in (1, 3):
        words = [f"{random_.getrandbits(40):x}" for _ in range(texts * 15_000)]  # new to the token cache
        prompts = [" ".join(words[n::texts]) for n in range(texts)]
        scoring = asyncio.gather(*(post(client, "/score", {"prompt": prompt}) for prompt in prompts))
        answered = 0
        while not scoring.done():
            async with client.get("/health") as answer:
                assert await answer.text() == "OK"
            answered += 1
        assert await scoring == [None] * texts
        assert answered > 3, "tokenization held the event loop"


async def test_the_content_type_of_a_body_does_not_matter(serve: Serve) -> None:
    client = await serve()
    for content_type in ("", "text/plain", "application/x-www-form-urlencoded", "nonsense"):
        async with client.post("/score", data=b'{"prompt": [1]}', headers={"Content-Type": content_type}) as answer:
            assert (answer.status, await answer.json()) == (200, None)


async def test_unknown_paths_get_404_and_wrong_methods_405_with_the_allowed_ones(serve: Serve) -> None:
    client = await serve()
    for method, path, status in (
        ("GET", "/score", 405),
        ("POST", "/health", 405),
        ("DELETE", "/pods", 405),
        ("GET", "/nowhere", 404),
        ("POST", "/x", 404),
    ):
        async with client.request(method, path) as answer:
            error = (await answer.json())["error"]
            assert answer.status == status
            assert path in error["message"]
            assert ("Allow" in answer.headers) == (status == 405)


async def test_a_client_that_does_not_read_its_stream_is_disconnected(serve: Serve) -> None:
    client = await serve(body_timeout=2.0)
    long = "\x01" * 1_000_000  # six characters each in JSON, so that no buffer of the system takes all of the answer
    body = json.dumps({"messages": [{"role": "user", "content": long}], "stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    loop = asyncio.get_running_loop()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        await loop.sock_connect(deaf, ("127.0.0.1", port_of(client)))
        await loop.sock_sendall(deaf, head % len(body) + body)
        await in_flight(client, 1)
        await in_flight(client, 0)
        received = b""
        with suppress(ConnectionResetError):
            while part := await loop.sock_recv(deaf, 1 << 20):
                received = received[-100:] + part
        assert b"[DONE]" not in received


async def test_a_prompt_of_as_many_characters_as_allowed_is_scored_and_echoed_and_one_more_is_too_large(
    serve: Serve,
) -> None:
    client = await serve(max_prompt_characters=1000)
    around = len((await post(client, "/v1/chat/completions/render", chat("")))["prompt"])
    for path, body in (
        *((path, {"prompt": ""}) for path in ("/score", "/explain", "/v1/completions", "/tokenize")),
        *(
            (path, chat(""))
            for path in ("/score", "/score_completions", "/explain", "/v1/chat/completions", "/tokenize")
        ),
    ):
        for characters, status in ((1000, 200), (1001, 413)):
            asked = {"prompt": "x" * characters} if "prompt" in body else chat("x" * (characters - around))
            async with client.post(path, json=asked) as answer:
                assert answer.status == status, (path, characters, await answer.text())
                assert status == 200 or "MAX_PROMPT_CHARACTERS" in await answer.text()
