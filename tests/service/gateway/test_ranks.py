"""Requests to engines with several data-parallel ranks: a header tells vLLM the rank, a field of the body SGLang."""

from __future__ import annotations

import json

import pytest

from service.gateway.bodies import with_field
from tests.service.engines import chat
from tests.service.gateway.routed import CHAT, Before
from tests.service.gateway.scripted import ScriptedEngine, answer

SOURCE = {"publisher": "zmq", "endpoint": "tcp://*:9", "topic": "kv@"}
VLLM = {"/kv_event_sources": {"0": SOURCE, "1": {**SOURCE, "endpoint": "tcp://*:10"}}}
SGLANG = {
    "/server_info": {
        "version": "0.5.23",
        "kv_events": {"publisher": "zmq", "endpoint_host": "*", "endpoint_port_base": 9, "dp_size": 2},
    }
}


def header(engine: ScriptedEngine, name: bytes) -> list[bytes]:
    return [value for key, value in engine.requests[-1].headers if key.lower() == name]


async def test_a_header_tells_vllm_the_rank_and_the_answer_tells_the_client(before: Before) -> None:
    routed, (engine,) = await before(answer(b"{}"), facts=VLLM)
    body = json.dumps(chat("Hello")).encode()
    for _ in range(4):
        async with routed.client.post(CHAT, data=body) as response:
            assert header(engine, b"x-data-parallel-rank") == [response.headers["X-Kvcache-Rank"].encode()]
    assert {one.body for one in engine.requests} == {body}


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings"])
async def test_a_field_of_the_body_tells_sglang_the_rank_and_all_other_bytes_stay(before: Before, path: str) -> None:
    routed, (engine,) = await before(answer(b"{}"), facts=SGLANG)
    body = (
        b' {\n "model" : "builtin/demo",\t"messages":[{"role":"user","content":"\\"routed_dp_rank\\""}],"top_p":1.0 }\n'
    )
    async with routed.client.post(path, data=body) as response:
        rank = response.headers["X-Kvcache-Rank"].encode()
    assert rank in {b"0", b"1"}
    assert engine.requests[-1].body == b' {\n "routed_dp_rank":' + rank + b"," + body[4:]
    assert header(engine, b"x-data-parallel-rank") == []
    assert header(engine, b"content-length") == [b"%d" % len(engine.requests[-1].body)]


async def test_a_client_that_names_a_rank_itself_gets_that_one(before: Before) -> None:
    routed, (engine,) = await before(answer(b"{}"), facts=VLLM)
    async with routed.client.post(CHAT, json=chat("Hello"), headers={"X-Data-Parallel-Rank": "7"}) as response:
        assert "X-Kvcache-Rank" not in response.headers
    assert header(engine, b"x-data-parallel-rank") == [b"7"]
    routed, (engine,) = await before(answer(b"{}"), facts=SGLANG)
    body = json.dumps(chat("Hello", routed_dp_rank=7)).encode()
    async with routed.client.post(CHAT, data=body) as response:
        assert "X-Kvcache-Rank" not in response.headers
    assert engine.requests[-1].body == body


@pytest.mark.parametrize(
    "body", [b"", b"{}", b" { } ", b"[1]", b"{x", b'"a"', b"\xff{", b'{"routed_dp_rank":null,"a":1}']
)
def test_what_has_no_place_for_a_field_stays_as_it_is(body: bytes) -> None:
    assert with_field(body, "routed_dp_rank", b"1") is None


async def test_an_engine_with_one_rank_is_told_none(before: Before) -> None:
    for facts in ({"/server_info": {"kv_events": None}}, {"/kv_event_sources": {"0": SOURCE}}, {}):
        routed, (engine,) = await before(answer(b"{}"), facts=facts)
        body = json.dumps(chat("Hello")).encode()
        async with routed.client.post(CHAT, data=body) as response:
            assert "X-Kvcache-Rank" not in response.headers
        assert engine.requests[-1].body == body
        assert header(engine, b"x-data-parallel-rank") == []
