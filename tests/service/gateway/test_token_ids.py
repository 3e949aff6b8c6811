"""SEND_TOKEN_IDS: engines get the tokens of prompts, where they are known to compute the same ones."""

from __future__ import annotations

import asyncio
import json
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import aiohttp
import pytest

from service.contract.pods import PodEntry
from service.fleet.parity import Verdict
from service.gateway.bodies import with_prompt
from tests.service.conftest import Serve
from tests.service.engines import MODEL, StartEngine, chat
from tests.service.gateway.routed import CHAT, Route, Routed
from tests.service.gateway.scripted import Received, ScriptedEngine, scripted

COMPLETIONS = "/v1/completions"
RENDERING = ("/v1/chat/completions/render", "/v1/completions/render", "/tokenize")
TEXT = "The harbour office answers questions about the ferry. " * 20


async def until_proven(routed: Routed) -> None:
    await routed.until_pods(
        lambda pods: all(pod["parity"] and pod["parity"][0]["verdict"] == Verdict.EQUAL for pod in pods.values())
    )


async def ask(routed: Routed, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async with routed.client.post(path, json=body) as response:
        assert response.status == 200
        answer: dict[str, Any] = await response.json()
        return answer


async def test_a_completion_has_token_ids_in_place_of_its_text_and_the_same_answer(route: Route) -> None:
    routed = await route(1, settings={"send_token_ids": True})
    await until_proven(routed)
    (engine,) = routed.engines
    body = {"model": MODEL, "max_tokens": 7, "prompt": TEXT, "x": {"prompt": "inner"}, "top_p": 1}
    answer = await ask(routed, COMPLETIONS, body)
    sent = json.loads(engine.requests[-1].body)
    async with aiohttp.ClientSession() as session, session.post(f"{engine.url}/tokenize", json=body) as tokenized:
        assert sent == {**body, "prompt": (await tokenized.json())["tokens"]}
    assert answer["usage"]["prompt_tokens"] == len(sent["prompt"])


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": [5, 6, 7]},
        {"prompt": [TEXT]},
        {"prompt": TEXT, "echo": True},
        {"prompt": TEXT, "truncate_prompt_tokens": 5},
        {"prompt": TEXT, "x": {"prompt": TEXT}},
    ],
    ids=["ids", "several", "echo", "truncated", "ambiguous"],
)
async def test_other_completions_stay_as_they_are(route: Route, body: dict[str, Any]) -> None:
    routed = await route(1, settings={"send_token_ids": True})
    await until_proven(routed)
    raw = json.dumps({"model": MODEL, **body}).encode()
    async with routed.client.post(COMPLETIONS, data=raw):
        pass
    assert [received.body for received in routed.engines[0].requests] == [raw]


async def test_chats_for_vllm_and_all_without_the_setting_stay_as_they_are(route: Route) -> None:
    for on, path, body in (
        (True, CHAT, chat(TEXT)),
        (False, CHAT, chat(TEXT)),
        (False, COMPLETIONS, {"model": MODEL, "prompt": TEXT}),
    ):
        routed = await route(1, settings={"send_token_ids": on})
        await until_proven(routed)
        raw = json.dumps(body).encode()
        async with routed.client.post(path, data=raw) as response:
            assert response.status == 200
        assert [received.body for received in routed.engines[0].requests] == [raw]


Sglang: TypeAlias = Callable[..., Awaitable[tuple[Routed, ScriptedEngine]]]


@pytest.fixture
async def sglang(start_engine: StartEngine, serve: Serve) -> AsyncIterator[Sglang]:
    """A service before an engine with SGLang's endpoints, which renders as a simulated engine does, or otherwise."""
    renders = await start_engine()
    async with aiohttp.ClientSession() as session:

        async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
            body = received.body
            if received.target in RENDERING:
                async with session.post(renders.url + received.target, data=received.body) as rendered:
                    body = await rendered.read()
                if received.target in altered:
                    body = body.replace(b'"token_ids":[', b'"token_ids":[1,').replace(b'"tokens":[', b'"tokens":[1,')
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
            writer.write(body)

        altered: tuple[str, ...] = ()
        async with scripted(respond, facts={"/server_info": {"version": "0.5.23", "kv_events": None}}) as engine:
            engine.renders = True

            async def start(*other: str) -> tuple[Routed, ScriptedEngine]:
                nonlocal altered
                altered = other
                pods = (PodEntry(engine.url, engine.pod),)
                return Routed(await serve(pods=pods, send_token_ids=True), []), engine

            yield start


def asked(engine: ScriptedEngine) -> list[bytes]:
    return [received.body for received in engine.requests if received.target == CHAT]


async def test_a_chat_for_sglang_has_token_ids_beside_its_messages(sglang: Sglang) -> None:
    routed, engine = await sglang()
    await until_proven(routed)
    raw = b' {"messages" : [{"role":"user","content":"Hello"}], "model":"builtin/demo","top_p":1.0}'
    async with routed.client.post(CHAT, data=raw) as response:
        assert response.status == 200
    (sent,) = asked(engine)
    async with (
        aiohttp.ClientSession() as session,
        session.post(engine.url + RENDERING[0], data=raw) as rendered,
    ):
        ids = (await rendered.json())["token_ids"]
    assert sent == b' {"input_ids":%b,%b' % (json.dumps(ids, separators=(",", ":")).encode(), raw[2:])


async def test_without_proof_the_text_is_sent(sglang: Sglang) -> None:
    routed, engine = await sglang(*RENDERING)
    await routed.until_pods(
        lambda pods: all(pod["parity"] and pod["parity"][0]["verdict"] == Verdict.DIFFERS for pod in pods.values())
    )
    raw = json.dumps(chat("Hello")).encode()
    async with routed.client.post(CHAT, data=raw) as response:
        assert response.status == 200
    assert asked(engine) == [raw]


def test_only_the_prompt_is_replaced_and_all_other_bytes_stay() -> None:
    tokens = array("I", [1, 22, 333])
    body = b'{ "a":"\\"prompt\\": \\"x\\"", "prompt" :\n"x \\u00e9 \\" y" , "z":1.0 }'
    assert with_prompt(body, tokens) == b'{ "a":"\\"prompt\\": \\"x\\"", "prompt" :\n[1,22,333] , "z":1.0 }'
    for other in (b"", b"[]", b"{}", b'{"prompt":"a","b":{"prompt":"a"}}', b'{"pr\\u006fmpt":"a"}', b'{"prompt":"a"'):
        assert with_prompt(other, tokens) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"system": "Be brief."},
        {"thinking": {"type": "disabled"}},
        {"stop_sequences": ["."]},
        {"tools": [{"type": "function", "function": {"name": "f"}, "input_schema": {}}]},
    ],
    ids=["system", "thinking", "stop_sequences", "input_schema"],
)
async def test_fields_of_another_api_do_not_change_the_prompt_of_a_chat(sglang: Sglang, fields: dict[str, Any]) -> None:
    routed, engine = await sglang()
    await until_proven(routed)
    body = chat("Hello", **fields)
    async with routed.client.post(CHAT, json=body) as response:
        assert response.status == 200
    (sent,) = asked(engine)
    async with aiohttp.ClientSession() as session, session.post(engine.url + RENDERING[0], json=body) as rendered:
        assert json.loads(sent) == {**body, "input_ids": (await rendered.json())["token_ids"]}
