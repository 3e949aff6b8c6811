"""Requests that are answered at once get the answers of the ordinary way: every request goes both ways."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import random
import re
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, TCPConnector, UnixConnector

from service.api.routes import ROUTES
from service.connection import Connection
from service.contract.api_keys import parse_api_keys
from service.contract.settings import Settings
from service.native.backend import COMPILED
from service.server import listening
from tests.service.api.conftest import BLOCK_SIZE, CHAT, Join, join
from tests.service.certificates import Authority
from tests.service.conftest import Serve, port_of
from tests.tries import tries
from tests.waiting import PATIENCE, reserved_port

__all__ = ["join"]
HOST = "Host: localhost\r\n"
LAST = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
TOKENS = list(range(100, 124))
IDS = json.dumps({"prompt": TOKENS}).encode()
QUERY = json.dumps({"model": "builtin/demo", "token_ids": TOKENS}).encode()


def request(body: bytes, path: str = "/score", headers: str = "", line: str = "POST {path} HTTP/1.1") -> bytes:
    return f"{line.format(path=path)}\r\n{HOST}Content-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def chunked(*chunks: bytes) -> bytes:
    sent = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return f"POST /score HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n".encode() + sent


def score(prompt: Any = TOKENS, **fields: Any) -> bytes:
    return request(json.dumps({"prompt": prompt, **fields}).encode())


def query(headers: str = "Content-Type: application/json\r\n", **fields: Any) -> bytes:
    asked = {"model": "builtin/demo", "token_ids": TOKENS, **fields}
    return request(json.dumps(asked).encode(), "/query", headers)


PLAIN: dict[str, bytes] = {
    "token ids": score(),
    "token ids of nobody": score([7, 8, 9, 10, 11]),
    "the best pod": score(top=1),
    "one pod": score(pods=["b:2"]),
    "with placements": score(placements=True),
    "with a salt": score(cache_salt="x"),
    "with a LoRA": score(lora_name="x"),
    "of a model": score(model="builtin/demo"),
    "ids of another model": score(model="other"),
    "with an unknown field": score(nonsense=1),
    "skips the cache": score(prompt_logprobs=1),
    "in one chunk": chunked(IDS),
    "other headers": request(IDS, headers="User-Agent: a\r\naccept: */*\r\nCONTENT-TYPE: text/plain\r\nX-A: \xe4\r\n"),
    "keep-alive": request(IDS, headers="Connection: keep-alive\r\n"),
    "text": score("What is a KV-cache?"),
    "text of one step": score("a KV-cache " * 180, truncate_prompt_tokens=8),
    "texts": score(["a", "b"]),
    "several prompts": score([TOKENS, TOKENS[:8]]),
    "truncated": score(truncate_prompt_tokens=8),
    "as long as the model takes": score(truncate_prompt_tokens=-1),
    "two prompts": request(b'{"prompt":[1],"prompt":"a"}'),
    "an escaped name": request(b'{"prompt":[1],"\\u0074op":1}'),
    "with a byte order mark": request(b"\xef\xbb\xbf" + IDS),
}
"""Requests of /score that are answered at once."""
QUERIES: dict[str, bytes] = {
    "query": query(),
    "query of an instance": query(instance_id="b:2"),
    "query without a type": query(""),
    "query of no model": query(model="other"),
}
"""Requests of /query that are answered at once."""
OTHERS: dict[str, bytes] = {
    "text of another model": score("a", model="no such: model"),
    "a long text": score("a KV-cache " * 800),
    "mixed kinds": score([1, "a"]),
    "with a broken feature": score(features={"mm_hashes": 1}),
    "no token": score([]),
    "too many tokens": score([1] * 60),
    "too large a token": score([2**32]),
    "negative": score([-1]),
    "leading zero": request(b'{"prompt":[01]}'),
    "not an integer": score([1.5]),
    "top is too small": score(top=0),
    "chat": request(json.dumps(CHAT).encode()),
    "chat and prompt": score(messages=CHAT["messages"]),
    "no JSON": request(b"{"),
    "no object": request(b"[1]"),
    "no UTF-8": request(b'{"prompt":[1],"model":"\xff"}'),
    "empty": request(b""),
    "without a length": f"POST /score HTTP/1.1\r\n{HOST}\r\n".encode(),
    "in chunks": chunked(IDS[:20], IDS[20:]),
    "gzip": request(gzip.compress(IDS), headers="Content-Encoding: gzip\r\n"),
    "identity": request(IDS, headers="Content-Encoding: identity\r\n"),
    "unknown encoding": request(IDS, headers="Content-Encoding: rot13\r\n"),
    "expects": request(IDS, headers="Expect: 100-continue\r\n"),
    "expects something else": request(IDS, headers="Expect: a miracle\r\n"),
    "closes": request(IDS, headers="Connection: close\r\n"),
    "upgrades": request(IDS, headers="Connection: upgrade\r\nUpgrade: h2c\r\n"),
    "HTTP/1.0": request(IDS, line="POST {path} HTTP/1.0"),
    "HTTP/1.0 kept": request(IDS, headers="Connection: keep-alive\r\n", line="POST {path} HTTP/1.0"),
    "HTTP/2": request(IDS, line="POST {path} HTTP/2.0"),
    "no host": b"POST /score HTTP/1.1\r\nContent-Length: 1\r\n\r\n1",
    "two lengths": request(IDS, headers="Content-Length: 1\r\n"),
    "a length and chunks": request(IDS, headers="Transfer-Encoding: chunked\r\n"),
    "a header without a colon": request(IDS, headers="nonsense\r\n"),
    "a long header": request(IDS, headers=f"X-A: {'a' * 40_000}\r\n"),
    "too many headers": request(IDS, headers="".join(f"X-{n}: a\r\n" for n in range(200))),
    "GET": request(IDS, line="GET {path} HTTP/1.1"),
    "PUT": request(IDS, line="PUT {path} HTTP/1.1"),
    "with a query": request(IDS, "/score?a=1"),
    "an escaped path": request(IDS, "/%73core"),
    "an absolute path": request(IDS, "http://localhost/score"),
    "a slash": request(IDS, "/score/"),
    "a fragment": request(IDS, "/score#a"),
    "query in msgpack": request(
        msgspec.msgpack.encode({"model": "builtin/demo", "token_ids": b"\1\0\0\0"}),
        "/query",
        "Content-Type: Application/msgpack; a=b\r\n",
    ),
    "query with a LoRA's number": query(lora_id=1),
    "query of nothing": query(token_ids=1),
    "query of too many": query(token_ids=[1] * 60),
}


class Client(asyncio.Protocol):
    """The client's end of a connection."""

    def __init__(self, changed: asyncio.Event) -> None:
        self._changed = changed
        self.received = b""
        self.has_ended = False

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.has_ended = True
        self._changed.set()

    @property
    def answers(self) -> int:
        """The number of whole answers."""
        return sum(1 for _ in whole_answers(self.received))


def whole_answers(received: bytes) -> Iterator[bytes]:
    while found := re.match(rb"HTTP/1\.[01] (\d+) (?s:.*?)\r\n\r\n", received):
        length = re.search(rb"Content-Length: (\d+)", found[0])
        end = found.end() + (int(length[1]) if length else 0)
        if len(received) < end:
            return
        if not found[1].startswith(b"1"):
            yield received[:end]
        received = received[end:]


class Ways:
    """A service's two ways to answer, of which a test chooses one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at_once = True
        self.taken: list[bool] = []
        """Whether each request that came to an idle connection was answered at once."""
        self._heard = 0
        self._changed = asyncio.Event()
        answer, receive = Connection._answer_at_once, Connection.data_received

        def answered(connection: Connection) -> bool:
            self.taken.append(self.at_once and answer(connection))
            return self.taken[-1]

        def received(connection: Connection, data: bytes) -> None:
            receive(connection, data)
            self._heard += len(data)
            self._changed.set()

        monkeypatch.setattr(Connection, "_answer_at_once", answered)
        monkeypatch.setattr(Connection, "data_received", received)

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    async def send(
        self, client: ClientSession, pieces: Sequence[bytes], answers: int = 1, *, in_turn: bool = False
    ) -> bytes:
        """The answers to pieces that arrive one by one, and to a last request; without their dates.

        `in_turn`: each piece is a request that is sent when the one before has its answer.
        """
        loop = asyncio.get_running_loop()
        transport, end = await loop.create_connection(lambda: Client(self._changed), "127.0.0.1", port_of(client))
        for piece in pieces:
            until, more = self._heard + len(piece), end.answers + in_turn
            transport.write(piece)
            await self._until(
                lambda: end.has_ended or (self._heard >= until and end.answers >= more)  # noqa: B023 - awaited here
            )
        await self._until(lambda: end.has_ended or end.answers >= answers)
        transport.write(LAST)
        await self._until(lambda: end.has_ended)
        return re.sub(rb"Date: [^\r]+", b"Date: now", end.received)

    async def both(
        self, client: ClientSession, pieces: Sequence[bytes], answers: int = 1, *, in_turn: bool = False
    ) -> bytes:
        """The answers in both ways, which are the same."""
        self.at_once = False
        ordinary = await self.send(client, pieces, answers, in_turn=in_turn)
        self.at_once = True
        self.taken.clear()
        assert await self.send(client, pieces, answers, in_turn=in_turn) == ordinary
        return ordinary


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Ways:
    return Ways(monkeypatch)


async def filled(serve: Serve, join: Join, **changes: Any) -> ClientSession:
    """A service with small limits, in which two pods hold tokens."""
    client = await serve(max_prompt_tokens=50, block_size=BLOCK_SIZE, **changes)
    await (await join(client, "a:1")).stores(TOKENS)
    await (await join(client, "b:2")).stores(TOKENS[:8])
    await ready(client)
    return client


async def ready(client: ClientSession) -> None:
    """Waits until the model is loaded."""
    async with asyncio.timeout(PATIENCE):
        while (await client.get("/ready")).status != 200:
            pass


async def test_every_request_has_the_same_answer_in_both_ways(
    serve: Serve, join: Join, ways: Ways, subtests: pytest.Subtests
) -> None:
    client = await filled(serve, join)
    for name, sent in {**PLAIN, **QUERIES, **OTHERS}.items():
        with subtests.test(name):
            answer = await ways.both(client, [sent])
            is_plain = name not in OTHERS
            assert ways.taken[:1] == [is_plain and (COMPILED or name != "ids of another model")] or not ways.taken
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n") or not is_plain


@pytest.mark.parametrize("body", [b"{}", IDS], ids=["empty", "ids"])
async def test_every_route_has_the_same_status_and_headers_in_both_ways(
    serve: Serve, ways: Ways, subtests: pytest.Subtests, body: bytes
) -> None:
    client = await serve()
    await ready(client)
    for route in ROUTES:
        if "text/event-stream" in route.responses and route.method == "GET" and len(route.responses) == 1:
            continue  # it has no end
        with subtests.test(f"{route.method} {route.path}"):
            path = re.sub(r"{[^}]*}", "x", route.path)
            heads = []
            for ways.at_once in (False, True):
                answer = await ways.send(client, [request(body, path, line=f"{route.method} {{path}} HTTP/1.1")])
                heads.append(re.sub(rb"Content-Length: \d+", b"", answer.partition(b"\r\n\r\n")[0]))
            assert heads[0] == heads[1]


@pytest.mark.parametrize("sent", [score(TOKENS[:8]), query(token_ids=TOKENS[:8])], ids=["score", "query"])
async def test_a_request_that_arrives_in_two_pieces_has_the_same_answer_wherever_it_is_cut(
    serve: Serve, join: Join, ways: Ways, sent: bytes
) -> None:
    client = await filled(serve, join)
    ways.at_once = False
    ordinary = await ways.send(client, [sent])
    ways.at_once = True
    for cut in range(1, len(sent)):
        assert await ways.send(client, [sent[:cut], sent[cut:]]) == ordinary, cut


@pytest.mark.parametrize("seed", range(tries(10, 100)))
async def test_requests_cut_at_random_have_the_same_answers_in_both_ways(
    serve: Serve, join: Join, ways: Ways, seed: int
) -> None:
    client, chance = await filled(serve, join), random.Random(seed)
    kinds = [*PLAIN.values(), *QUERIES.values(), *PLAIN.values(), *OTHERS.values()]
    requests = chance.choices(kinds, k=chance.randint(1, 40))
    whole = b"".join(requests)
    cuts = sorted(chance.sample(range(1, len(whole)), min(len(whole) - 1, chance.randint(0, 30))))
    if chance.random() < 0.5:  # most pieces are whole requests
        ends = [sum(map(len, requests[:number])) for number in range(1, len(requests))]
        cuts = sorted({*chance.sample(cuts, len(cuts) // 4), *ends})
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    await ways.both(client, pieces, len(requests))


async def test_a_connection_takes_many_requests_of_both_ways_in_turn(serve: Serve, join: Join, ways: Ways) -> None:
    client = await filled(serve, join)
    pieces = [QUERIES["query"], OTHERS["chat"], *[QUERIES["query"]] * 3] * 25  # more than aiohttp's parser queues
    answer = await ways.both(client, pieces, in_turn=True)
    assert answer.count(b"HTTP/1.1 200 OK") == len(pieces) + 1
    assert ways.taken == [True, False, True, True, True] * 25 + [False]


async def counted(client: ClientSession) -> dict[str, str]:
    """The counters of requests, without those that prepare a test, and of lookups."""
    async with client.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    wanted = re.compile(
        r"kvcache_(http_\w*(total|count|flight)|index_lookup_requests_total)\b(?!.*/(metrics|pods|ready))"
    )
    return dict(line.rsplit(" ", 1) for line in lines if wanted.match(line))


async def test_requests_count_the_same_in_both_ways(serve: Serve, join: Join, ways: Ways) -> None:
    counts = []
    for ways.at_once in (False, True):
        client = await filled(serve, join)
        for sent in (*PLAIN.values(), *QUERIES.values(), *OTHERS.values()):
            await ways.send(client, [sent])
        counts.append(await counted(client))
    assert counts[0] == counts[1]
    assert counts[0]


KEY = "sk-reading-0123456789"
WITH_KEYS = {
    "as a bearer": f"Authorization: Bearer {KEY}\r\n",
    "as Anthropic's clients": f"x-api-key: {KEY}\r\n",
    "none": "",
    "unknown": "Authorization: Bearer sk-unknown-0123456789\r\n",
    "of a router": "Authorization: Bearer sk-routing-0123456789\r\n",
}


async def test_keys_are_asked_for_in_both_ways(serve: Serve, ways: Ways, subtests: pytest.Subtests) -> None:
    client = await serve(api_keys=parse_api_keys(f"a:read:{KEY},b:route:sk-routing-0123456789"))
    for name, header in WITH_KEYS.items():
        with subtests.test(name):
            answer = await ways.both(client, [request(QUERY, "/query", header)])
            assert ways.taken[0] == answer.startswith(b"HTTP/1.1 200 OK") == (KEY in header)


async def test_a_key_s_rate_holds_in_both_ways(serve: Serve, ways: Ways) -> None:
    sent = [request(QUERY, "/query", WITH_KEYS["as a bearer"])]
    for ways.at_once in (False, True):
        client = await serve(api_keys=parse_api_keys(f"a:read:{KEY}"), api_key_rates=(("*", 0.001),))
        assert (await ways.send(client, sent)).startswith(b"HTTP/1.1 200 OK")
        assert b"API_KEY_RATES" in await ways.send(client, sent)


async def test_large_bodies_and_large_answers_have_the_same_answer_in_both_ways(
    serve: Serve, join: Join, ways: Ways
) -> None:
    client = await serve(block_size=BLOCK_SIZE)
    for number in range(70):
        await (await join(client, f"{'x' * 1000}{number}")).stores(TOKENS)
    for sent in (QUERIES["query"], query(token_ids=[10**9] * 7000), PLAIN["token ids"], QUERIES["query"]):
        answer = await ways.both(client, [sent])
        assert answer.startswith(b"HTTP/1.1 200 OK") and not ways.taken[0]


async def test_a_body_above_the_limit_gets_413_in_both_ways(serve: Serve, ways: Ways) -> None:
    client = await serve(max_body_bytes=len(QUERY))
    assert (await ways.both(client, [QUERIES["query"]])).startswith(b"HTTP/1.1 200 OK")
    longer = request(QUERY + b" ", "/query")
    assert b"MAX_BODY_BYTES" in await ways.both(client, [longer])


async def test_requests_above_the_limits_in_flight_get_429_in_both_ways(serve: Serve, ways: Ways) -> None:
    client = await serve(max_bytes_in_flight=20_000, max_requests_per_peer=1, max_requests_in_flight=1)
    begun = f"POST /score HTTP/1.1\r\n{HOST}Content-Length: 30000\r\n\r\n".encode() + b" " * 19_990
    _, writer = await asyncio.open_connection("127.0.0.1", port_of(client))
    writer.write(begun)
    async with asyncio.timeout(PATIENCE):
        while b"bytes" not in await ways.send(client, [QUERIES["query"]]):
            pass  # until the other request has its bytes
    assert b"MAX_BYTES_IN_FLIGHT" in await ways.both(client, [QUERIES["query"]])
    assert not ways.taken[0]
    writer.close()


async def test_the_port_of_metrics_answers_no_query(serve: Serve) -> None:
    with reserved_port() as port:
        await serve(metrics_port=port)
        async with ClientSession(f"http://127.0.0.1:{port}") as client, client.post("/query", data=QUERY) as answer:
            assert answer.status == 404


async def test_the_socket_answers_in_both_ways(serve: Serve, ways: Ways, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    await serve(http_socket=path)
    answers = []
    async with ClientSession("http://kvcache", connector=UnixConnector(str(path))) as client:
        for ways.at_once in (False, True):
            async with client.post("/query", data=QUERY) as answer:
                answers.append((answer.status, {**answer.headers, "Date": ""}, await answer.read()))
    assert answers[0] == answers[1]
    assert ways.taken == [False, True]


async def test_an_answer_keeps_the_connection_for_the_keepalive_timeout_and_the_next_headers_have_theirs(
    serve: Serve, ways: Ways
) -> None:
    client = await serve(header_timeout=0.2, keepalive_timeout=0.6)
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(client))
    loop = asyncio.get_running_loop()
    writer.write(QUERIES["query"])
    started = loop.time()
    answer = await asyncio.wait_for(reader.read(), PATIENCE)
    assert loop.time() - started > 0.5 and answer.startswith(b"HTTP/1.1 200")
    writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(client))
    writer.write(QUERIES["query"])
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
    writer.write(b"POST /query HTTP/1.1\r\n")
    assert b"HTTP/1.1 408" in await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()
    assert ways.taken == [True, True]


async def test_requests_are_logged_in_both_ways(serve: Serve, ways: Ways, caplog: pytest.LogCaptureFixture) -> None:
    client = await serve()
    caplog.set_level(logging.DEBUG, "service.access")
    for ways.at_once in (False, True):
        await ways.send(client, [QUERIES["query"]])
    lines = [record.getMessage() for record in caplog.records if record.name == "service.access"]
    assert [re.sub(r"[\d.]+ ms", "ms", line) for line in lines if "/query" in line] == ["POST /query 200 ms"] * 2


async def test_a_service_that_stops_ends_the_connection_with_the_answer(settings: Settings, ways: Ways) -> None:
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(listening(replace(settings, drain_timeout=PATIENCE)))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(QUERIES["query"])
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        other, silent = await asyncio.open_connection("127.0.0.1", port)  # the service waits for its request
        async with ClientSession(f"http://127.0.0.1:{port}") as client:
            await client.get("/health")
            stopping = asyncio.create_task(stack.aclose())
            async with asyncio.timeout(PATIENCE):
                while (await client.get("/ready")).status == 200:
                    pass
        writer.write(QUERIES["query"])
        assert b"Connection: close" in await asyncio.wait_for(reader.read(), PATIENCE)
        silent.write(QUERIES["query"])
        assert b"Connection: close" in await asyncio.wait_for(other.read(), PATIENCE)
        await asyncio.wait_for(stopping, PATIENCE)
        writer.close()
        silent.close()
    assert ways.taken[0] and not any(ways.taken[1:])


async def test_a_client_that_leaves_within_or_after_a_request_leaves_nothing(
    serve: Serve, ways: Ways, caplog: pytest.LogCaptureFixture
) -> None:
    client = await serve()
    for cut in (1, 30, len(QUERIES["query"]) - 1, len(QUERIES["query"])):
        raw = socket.create_connection(("127.0.0.1", port_of(client)))
        raw.sendall(QUERIES["query"][:cut])
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()  # resets the connection
    assert (await ways.send(client, [QUERIES["query"]])).startswith(b"HTTP/1.1 200 OK")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_without_a_certificate_a_query_gets_401_in_both_ways(serve: Serve, ways: Ways, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, own = authority.issue("server"), authority.issue("client")
    client = await serve(tls_cert=server.cert, tls_key=server.key, tls_client_ca=authority.pair.cert)
    for ways.at_once in (False, True):
        for pair, status in ((None, 401), (own, 200)):
            context = ssl.create_default_context(cafile=authority.pair.cert)
            if pair is not None:
                context.load_cert_chain(pair.cert, pair.key)
            connector = TCPConnector(ssl=context)
            url = f"https://localhost:{port_of(client)}"
            ways.taken.clear()
            async with ClientSession(url, connector=connector) as secure, secure.post("/query", data=QUERY) as answer:
                assert answer.status == status
            assert ways.taken == [ways.at_once and pair is not None]
