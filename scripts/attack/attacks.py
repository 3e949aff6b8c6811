"""The attacks: each takes a port on loopback, sends a bounded number of requests, and respects its time limit."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final, TypeAlias

Attack: TypeAlias = Callable[[int, float], Awaitable[None]]
"""Takes the port and a time limit in seconds."""

_BODY_BYTES: Final = 16 << 20
_MANY: Final = 20


def _repeated(start: bytes, item: bytes, end: bytes) -> bytes:
    """A body of just under the size limit."""
    room = _BODY_BYTES - len(start) - len(end) - 64
    return start + b",".join([item] * (room // (len(item) + 1))) + end


def _head(path: str, length: int, extra: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{extra}\r\n".encode()


async def _exchange(port: int, request: bytes, seconds: float) -> None:
    """Sends a request, and reads the response until the end or for that many seconds."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request)
                await writer.drain()
                await reader.read(1 << 16)
            finally:
                writer.close()


def _bodies(path: str, body: bytes, number: int) -> Attack:
    async def attack(port: int, seconds: float) -> None:
        request = _head(path, len(body)) + body
        await asyncio.gather(*(_exchange(port, request, seconds) for _ in range(number)))

    return attack


def _unfinished(request: bytes, number: int) -> Attack:
    """Opens connections, sends the start of a request on each, and waits."""

    async def attack(port: int, seconds: float) -> None:
        writers = []
        for _ in range(number):
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request)
                writers.append(writer)
        await asyncio.sleep(seconds)
        for writer in writers:
            writer.close()

    return attack


async def _slow_readers(port: int, seconds: float) -> None:
    """60 clients that ask for a long response and do not read it."""
    # Six characters each in JSON, so that the response is larger than the request.
    body = json.dumps({"messages": [{"role": "user", "content": "\x01" * 1_000_000}]}).encode()
    loop, sockets = asyncio.get_running_loop(), []
    for _ in range(60):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        sockets.append(connection)
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(5):
                await loop.sock_connect(connection, ("127.0.0.1", port))
                await loop.sock_sendall(connection, _head("/v1/chat/completions", len(body)) + body)
    await asyncio.sleep(seconds)
    for connection in sockets:
        connection.close()


async def _abandoned_prompts(port: int, seconds: float) -> None:
    """24 prompts of 4 million characters, abandoned after 2 s; then one of 15,000 characters."""
    chance = random.Random(1)
    words = [f"{chance.getrandbits(40):x}" for _ in range(340_000)]

    async def abandon(number: int) -> None:
        body = json.dumps({"prompt": " ".join(words[number * 997 :] + words[: number * 997])}).encode()
        await _exchange(port, _head("/score", len(body)) + body, 2.0)

    await asyncio.gather(*(abandon(number) for number in range(24)))
    body = json.dumps({"prompt": " ".join(f"{chance.getrandbits(40):x}" for _ in range(1_400))}).encode()
    await _exchange(port, _head("/score", len(body), "Connection: close\r\n") + body, seconds)


async def _burst_of_chats(port: int, seconds: float) -> None:
    """40 concurrent chats of 3 MB each."""
    chance = random.Random(1)
    text = " ".join(f"{chance.getrandbits(40):x}" for _ in range(260_000))

    async def ask(number: int) -> None:
        body = json.dumps({"messages": [{"role": "user", "content": f"{number} {text[number:]}"}]}).encode()
        await _exchange(port, _head("/score", len(body), "Connection: close\r\n") + body, seconds)

    await asyncio.gather(*(ask(number) for number in range(40)))


async def _bomb(port: int, seconds: float) -> None:
    """2 MB of gzip that inflate to 2 GB."""
    packer, zeros = zlib.compressobj(9, wbits=31), bytes(1 << 20)
    body = b"".join([*(packer.compress(zeros) for _ in range(2048)), packer.flush()])
    await _exchange(port, _head("/score", len(body), "Content-Encoding: gzip\r\n") + body, seconds)


def attacks() -> Mapping[str, Attack]:
    objects = _repeated(b'{"messages":[', b"{}", b"]}")
    lists = _repeated(b'{"prompt":[', b"[1]", b"]}")
    pods = b'{"prompt":[1],"pods":[' + b",".join(b'"%d"' % number for number in range(1_000_000)) + b"]}"
    return {
        "bodies of one byte, 256 connections": _unfinished(_head("/score", 100) + b"{", 256),
        "headers without an end, 256 connections": _unfinished(b"GET /health HTTP/1.1\r\nHost: a\r\n", 256),
        "responses that nobody reads, 60 clients": _slow_readers,
        "16 MB of empty messages": _bodies("/score", objects, 1),
        f"16 MB of empty messages, {_MANY} times": _bodies("/score", objects, _MANY),
        "16 MB of prompts of one token": _bodies("/score", lists, 1),
        f"16 MB of prompts of one token, {_MANY} times": _bodies("/score", lists, _MANY),
        "a million pods, 10 times": _bodies("/score", pods, 10),
        "2 MB of gzip that inflate to 2 GB": _bomb,
        "24 prompts of 4 million characters, abandoned": _abandoned_prompts,
        "40 chats of 3 MB": _burst_of_chats,
    }
