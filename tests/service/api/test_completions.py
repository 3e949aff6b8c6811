from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.service.api.conftest import CHAT, Join, post, refused
from tests.service.conftest import Serve, url_of
from tests.service.official_client import official_client

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is a KV-cache, and why would two engines share one?"},
]


async def test_the_official_client_gets_a_completion(serve: Serve, join: Join) -> None:
    client = await serve(block_size=4)
    tokens = (await post(client, "/tokenize", CHAT))["tokens"]
    await (await join(client, "a:1")).stores(tokens)
    async with official_client(url_of(client)) as official:
        completion = await official.chat.completions.create(
            model="builtin/demo", messages=MESSAGES, temperature=0.5, max_tokens=5, extra_body={"top_k": 3}
        )
    rendered = (await post(client, "/v1/chat/completions/render", CHAT))["prompt"]
    assert completion.object == "chat.completion"
    assert completion.id.startswith("chatcmpl-")
    assert completion.model == "builtin/demo"
    (choice,) = completion.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == f"Response based on template: {rendered}..."
    assert choice.finish_reason == "stop"
    answered = await post(client, "/tokenize", {"prompt": choice.message.content, "add_special_tokens": False})
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == len(tokens)
    assert completion.usage.completion_tokens == answered["count"]
    assert completion.usage.total_tokens == len(tokens) + answered["count"]
    assert completion.model_extra == {"pod_scores": {"a:1": len(tokens) // 4}}


async def test_the_official_client_gets_a_streamed_completion(serve: Serve) -> None:
    client = await serve()
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "a long question: " + "why? " * 1000}]
    async with official_client(url_of(client)) as official:
        whole = await official.chat.completions.create(model="builtin/demo", messages=messages)
        stream = await official.chat.completions.create(
            model="builtin/demo", messages=messages, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    *parts, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in parts) == whole.choices[0].message.content
    assert len(parts) > 4
    assert parts[0].choices[0].delta.role == "assistant"
    assert parts[0].model_extra == {"pod_scores": None}
    assert [chunk.choices[0].finish_reason for chunk in parts] == [None] * (len(parts) - 1) + ["stop"]
    assert last.choices == []
    assert last.usage == whole.usage
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in parts)
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_consists_of_server_sent_events_and_ends_with_done(serve: Serve) -> None:
    client = await serve()
    async with client.post("/v1/chat/completions", json={**CHAT, "stream": True}) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        text = await answer.text()
    *events, end = text.split("\n\n")
    assert end == ""
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all("usage" not in chunk for chunk in chunks)


async def test_the_official_client_raises_its_own_error_types(serve: Serve) -> None:
    import openai  # noqa: PLC0415 - slow to load

    client = await serve()
    async with official_client(url_of(client)) as official:
        with pytest.raises(openai.NotFoundError) as unknown:
            await official.chat.completions.create(model="no such: model", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError) as wrong:
            await official.chat.completions.create(model="builtin/demo", messages=[], stream=True)
    assert unknown.value.code == "model_not_found"
    assert unknown.value.param == "model"
    assert wrong.value.param == "messages"


async def test_stream_options_need_a_stream(serve: Serve) -> None:
    client = await serve()
    body = {**CHAT, "stream_options": {"include_usage": True}}
    assert (await refused(client, "/v1/chat/completions", body))[:2] == (400, "stream_options")


async def test_render_gives_the_text_and_tokens_that_the_model_would_get(serve: Serve) -> None:
    client = await serve()
    body = {**CHAT, "cache_salt": "pepper", "lora_name": "sql"}
    rendered = await post(client, "/v1/chat/completions/render", body)
    assert rendered["token_ids"] == (await post(client, "/tokenize", CHAT))["tokens"]
    assert (await post(client, "/detokenize", {"tokens": rendered["token_ids"]}))["prompt"] == rendered["prompt"]
    assert (rendered["model"], rendered["cache_salt"], rendered["lora_name"]) == ("builtin/demo", "pepper", "sql")


REFUSED: tuple[tuple[dict[str, object], str | None], ...] = (
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"continue_final_message": True, "add_generation_prompt": True}, None),
    ({"chat_template": "{{ 1 }}"}, "chat_template"),
    ({"reasoning_effort": "heroic"}, "reasoning_effort"),
    ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
    ({"tools": {}}, "tools"),
    ({"tools": []}, "tools"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs"),
)


@pytest.mark.parametrize("path", ["/score_completions", "/v1/chat/completions", "/v1/chat/completions/render"])
async def test_a_chat_that_engines_reject_is_rejected(serve: Serve, path: str, subtests: pytest.Subtests) -> None:
    client = await serve()
    for fields, param in REFUSED:
        with subtests.test(str(fields)):
            status, named, message = await refused(client, path, {**CHAT, **fields})
            assert status == 400
            assert message
            assert param is None or named == param
