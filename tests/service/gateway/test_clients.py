"""Clients that people use, through the gateway to simulated engines. Nothing of them is changed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from service.simulation.faults import Fault
from tests.conftest import ROOT
from tests.service.conftest import url_of
from tests.service.engines import MODEL, chat
from tests.service.gateway.routed import CHAT, Route, Routed
from tests.service.official_client import official_client

if TYPE_CHECKING:
    from openai import AsyncOpenAI

LONG = "When does the ferry leave, and may I take my bicycle? " * 12
TIDE: dict[str, Any] = {
    "name": "tide",
    "description": "The next high tide",
    "parameters": {"type": "object", "properties": {"harbour": {"type": "string"}}, "required": ["harbour"]},
}


@pytest.fixture
async def routed(route: Route) -> Routed:
    return await route(2)


@pytest.fixture
async def openai(routed: Routed) -> AsyncIterator[AsyncOpenAI]:
    async with official_client(url_of(routed.client)) as client:
        yield client


async def command(*arguments: str) -> str:
    """The output of a command that succeeds."""
    process = await asyncio.create_subprocess_exec(*arguments, stdout=PIPE, stderr=PIPE)
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


async def test_openai_s_client_chats_whole_and_streamed(openai: AsyncOpenAI) -> None:
    from openai import NotFoundError  # noqa: PLC0415 - slow to load

    messages: Any = [{"role": "user", "content": "Hello"}]
    whole = await openai.chat.completions.create(model=MODEL, messages=messages)
    options: Any = {"include_usage": True}
    stream = await openai.chat.completions.create(model=MODEL, messages=messages, stream=True, stream_options=options)
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None and whole.usage is not None
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert [model.id async for model in openai.models.list()] == [MODEL]
    with pytest.raises(NotFoundError):
        await openai.chat.completions.create(model="other", messages=messages)


async def test_openai_s_client_calls_tools_and_answers_with_their_results(routed: Routed, openai: AsyncOpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": LONG}]
    tools: Any = [{"type": "function", "function": TIDE}]
    asked = {"model": MODEL, "tools": tools}
    whole = await openai.chat.completions.create(**asked, messages=messages, tool_choice="required")
    message = whole.choices[0].message
    assert whole.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls
    call: Any = message.tool_calls[0]
    assert call.function.name == "tide"
    assert list(json.loads(call.function.arguments)) == ["harbour"]
    async with openai.chat.completions.stream(**asked, messages=messages, tool_choice="required") as stream:
        streamed: Any = (await stream.get_final_completion()).choices[0].message.tool_calls
    assert streamed[0].function.arguments == call.function.arguments
    for engine in routed.engines:
        await routed.until_applied(engine)
    messages += [message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "06:30"}]
    raw = await openai.chat.completions.with_raw_response.create(**asked, messages=messages)
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == int(raw.headers["X-Kvcache-Predicted-Tokens"]) > 100


async def test_openai_s_client_uses_responses(routed: Routed, openai: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "instructions": "Be brief.", "input": LONG}
    whole = await openai.responses.create(**asked)
    assert whole.output_text
    for engine in routed.engines:
        await routed.until_applied(engine)
    raw = await openai.responses.with_raw_response.create(**asked)
    predicted = int(raw.headers["X-Kvcache-Predicted-Tokens"])
    usage = raw.parse().usage
    assert usage is not None
    assert usage.input_tokens_details.cached_tokens == predicted > 100
    async with openai.responses.stream(**asked) as stream:
        text = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
        assert (await stream.get_final_response()).output_text == text == whole.output_text
    tools: Any = [{"type": "function", "strict": False, **TIDE}]
    called = await openai.responses.create(**asked, tools=tools, tool_choice="required")
    item: Any = called.output[0]
    assert (item.type, item.name, list(json.loads(item.arguments))) == ("function_call", "tide", ["harbour"])


async def test_openai_s_client_sees_a_response_break_off(openai: AsyncOpenAI, routed: Routed) -> None:
    from openai import APIConnectionError  # noqa: PLC0415 - slow to load

    for engine in routed.engines:
        engine.faults.add(Fault("die", after=3))
    events: list[Any] = []
    with pytest.raises(APIConnectionError):
        async for event in await openai.responses.create(model=MODEL, input="Hello", stream=True):
            events.append(event)
    assert [event.type for event in events[-2:]] == ["response.output_text.delta", "error"]
    assert events[-1].code == "engine_broke_off"
    assert "the engine broke off" in events[-1].message


async def test_openai_s_client_completes_texts_and_embeds(openai: AsyncOpenAI) -> None:
    completed = await openai.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=5)
    assert completed.usage is not None
    assert completed.usage.completion_tokens == 5
    embedded = await openai.embeddings.create(model=MODEL, input=["crane", "ferry", "crane"])
    first, second, third = (item.embedding for item in embedded.data)
    assert first == third != second
    as_numbers = await openai.embeddings.create(model=MODEL, input="crane", encoding_format="float")
    assert as_numbers.data[0].embedding == pytest.approx(first)


async def test_a_body_of_anthropic_s_messages_passes_whole_and_streamed(routed: Routed) -> None:
    body = {"model": MODEL, "max_tokens": 100, "system": "Be brief.", "messages": [{"role": "user", "content": LONG}]}
    async with routed.client.post("/v1/messages", json=body) as response:
        whole = await response.json()
    text = whole["content"][0]["text"]
    for engine in routed.engines:
        await routed.until_applied(engine)
    async with routed.client.post("/v1/messages", json={**body, "stream": True}) as response:
        lines = (await response.text()).splitlines()
        predicted = int(response.headers["X-Kvcache-Predicted-Tokens"])
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert [event["type"] for event in (events[0], events[-1])] == ["message_start", "message_stop"]
    assert events[0]["message"]["usage"]["cache_read_input_tokens"] == predicted > 100
    assert "".join(event["delta"].get("text", "") for event in events if "delta" in event) == text


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
async def test_curl_streams_events_and_sees_the_pod(routed: Routed) -> None:
    body = json.dumps(chat("Hello", stream=True, max_tokens=3))
    sent = ("--silent", "--show-error", "--no-buffer", "--include", "--json", body)
    output = await command("curl", *sent, f"{url_of(routed.client)}{CHAT}")
    head, _, events = output.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200")
    assert any(f"X-Kvcache-Pod: {engine.pod}" in head for engine in routed.engines)
    assert events.count("chat.completion.chunk") == 4
    assert events.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("client", ["langchain", "litellm"])
async def test_a_client_library_chats_streams_calls_a_tool_and_embeds(routed: Routed, client: str) -> None:
    python = os.environ.get("KVCACHE_CLIENTS")
    if python is None:
        pytest.skip("no clients: scripts/clients/install FOLDER installs them, KVCACHE_CLIENTS=FOLDER/bin/python")
    script = ROOT / "scripts" / "clients" / f"{client}_chat.py"
    told = json.loads((await command(python, str(script), f"{url_of(routed.client)}/v1", MODEL)).splitlines()[-1])
    assert told["whole"]
    assert told["streamed"] == told["whole"]
    assert told["usage"][0] == told["usage"][1] > 5
    assert told["called"] == [["tide", ["harbour"]]]
    assert told["vectors"] == [16, 16]
    paths = {received.path for engine in routed.engines for received in engine.requests}
    assert paths == {CHAT, "/v1/embeddings"}
