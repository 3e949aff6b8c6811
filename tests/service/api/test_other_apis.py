"""Bodies of /v1/messages and /v1/responses are scored as the chats that vLLM turns them into."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.api.anthropic import chat_body as of_messages
from service.api.anthropic import is_anthropic
from service.api.errors import ApiError
from service.api.requests import ChatRequest, chat_body_decoder, decode_prompt_or_chat
from service.api.responses_input import chat_body as of_responses
from tests.service.api.conftest import post, refused
from tests.service.conftest import Serve

HI = {"role": "user", "content": "Hi"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Of a city", "parameters": SCHEMA}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
ANTHROPIC_IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def test_a_message_of_anthropics_api_is_told_from_a_chat() -> None:
    assert not is_anthropic({"messages": [HI], "tools": [TOOL], "system": None})
    assert is_anthropic({"messages": [HI], "system": "Be brief."})
    assert is_anthropic({"messages": [HI], "tools": [{"name": "weather", "input_schema": SCHEMA}]})
    assert is_anthropic({"messages": [HI], "thinking": {"type": "disabled"}})


def test_system_tools_and_efforts_of_anthropics_api() -> None:
    body = {
        "model": "m",
        "max_tokens": 5,
        "system": [text("x-anthropic-billing-header: 1"), text("Be brief."), text("Be kind.")],
        "messages": [HI],
        "tools": [
            {"name": "weather", "description": "Of a city", "input_schema": {"properties": SCHEMA["properties"]}}
        ],
        "tool_choice": {"type": "tool", "name": "weather"},
        "thinking": {"type": "disabled"},
        "cache_salt": "s",
    }
    assert of_messages(body) == {
        "model": "m",
        "cache_salt": "s",
        "messages": [{"role": "system", "content": "Be brief.Be kind."}, HI],
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "reasoning_effort": "none",
    }
    assert of_messages({"messages": [HI], "output_config": {"effort": "max"}})["reasoning_effort"] == "max"


def test_blocks_of_anthropics_api() -> None:
    body = {
        "messages": [
            {"role": "user", "content": [text("Weather?"), ANTHROPIC_IMAGE]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Ask."},
                    text("Let me see."),
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Oslo"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": [text("12"), text("degrees")]},
                    text("And tomorrow?"),
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "13"}]},
        ]
    }
    assert of_messages(body)["messages"] == [
        {"role": "user", "content": [text("Weather?"), IMAGE]},
        {"role": "assistant", "reasoning": "Ask.", "tool_calls": [CALL], "content": "Let me see."},
        {"role": "tool", "tool_call_id": "c1", "content": "12\ndegrees"},
        {"role": "user", "content": "And tomorrow?"},
        {"role": "tool", "tool_call_id": "c1", "content": "13"},
    ]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"system": "x", "messages": 5}, "messages"),
        ({"system": 5, "messages": [HI]}, "system"),
        ({"system": "x", "messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"system": "x", "messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]"),
        ({"messages": [HI], "tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"messages": [HI], "tool_choice": {"type": "some"}}, "tool_choice.type"),
    ],
)
def test_what_anthropics_api_does_not_have_is_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        of_messages(body)
    assert (caught.value.status, caught.value.detail.param) == (400, param)


def test_the_input_of_a_response_becomes_messages() -> None:
    body = {
        "model": "m",
        "instructions": "Be brief.",
        "input": [
            HI,
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Yes?"}]},
            {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Ask."}], "summary": []},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Oslo"}'},
            {"type": "function_call_output", "call_id": "c1", "output": "12"},
        ],
        "tools": [{"type": "function", "name": "weather", "description": "Of a city", "parameters": SCHEMA}],
        "reasoning": {"effort": "low"},
        "truncation": "auto",
    }
    assert of_responses(body) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            HI,
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
            {"role": "assistant", "reasoning": "Ask.", "tool_calls": [CALL]},
            {"role": "tool", "content": "12", "tool_call_id": "c1"},
        ],
        "tools": [TOOL],
        "tool_choice": None,
        "reasoning_effort": "low",
        "truncate_prompt_tokens": -1,
    }


def test_an_unfinished_answer_in_a_response_is_continued() -> None:
    unfinished = {"role": "assistant", "content": "Well, I", "status": "in_progress"}
    assert of_responses({"input": [HI, unfinished]}) == {
        "messages": [HI, {"role": "assistant", "content": "Well, I"}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    }


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": 5}, "input"),
        ({"input": [5]}, "input[0]"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"input": "Hi", "previous_response_id": "r"}, "previous_response_id"),
        ({"input": "Hi", "tools": [{"type": "web_search"}]}, "tools[0]"),
    ],
)
def test_what_only_an_engine_knows_of_a_response_is_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        of_responses(body)
    assert (caught.value.status, caught.value.detail.param) == (400, param)


async def test_bodies_of_all_apis_have_the_tokens_of_the_same_chat(serve: Serve) -> None:
    client = await serve()
    chat = {"messages": [{"role": "system", "content": "Be brief."}, HI]}
    expected = (await post(client, "/explain", chat))["text"]
    assert (await post(client, "/explain", {"system": "Be brief.", "messages": [HI]}))["text"] == expected
    assert (await post(client, "/explain", {"instructions": "Be brief.", "input": "Hi"}))["text"] == expected
    assert (await post(client, "/score", {"system": "Be brief.", "messages": [HI]})) is None


async def test_a_text_completion_is_echoed_in_its_own_form(serve: Serve) -> None:
    client = await serve()
    answer = await post(client, "/v1/completions", {"prompt": ["One", "Two"], "max_tokens": 5})
    assert (answer["object"], [choice["index"] for choice in answer["choices"]]) == ("text_completion", [0, 1])
    assert answer["choices"][1]["text"] == "Response based on template: Two..."
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]
    assert (await refused(client, "/v1/completions", {"prompt": "x", "suffix": "y"}))[:2] == (400, "suffix")
    assert (await refused(client, "/v1/completions", {"messages": [HI]}))[:2] == (400, "prompt")
    assert (await refused(client, "/score", {"prompt": "x", "suffix": "y"}))[:2] == (400, "suffix")


async def test_one_model_is_described_alone(serve: Serve) -> None:
    client = await serve()
    card = await (await client.get("/v1/models/builtin/demo")).json()
    assert (card["id"], card["object"]) == ("builtin/demo", "model")
    async with client.get("/v1/models/none") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "model_not_found")


async def test_a_byte_order_mark_is_taken(serve: Serve) -> None:
    client = await serve()
    for body in (b'\xef\xbb\xbf{"prompt": "Hi"}', b'\xef\xbb\xbf{"messages": [{"role": "user", "content": "Hi"}]}'):
        async with client.post("/score", data=body) as answer:
            assert answer.status == 200, await answer.text()


@pytest.mark.parametrize("lone", ["\\ud800", "\\udc00", "\\uD83D and more"])
async def test_a_lone_surrogate_is_named(serve: Serve, lone: str) -> None:
    client = await serve()
    async with client.post("/score", data=f'{{"prompt": "a {lone}"}}'.encode()) as answer:
        assert answer.status == 400
        assert f"a lone surrogate, {lone[:6]}, at byte 14" in (await answer.json())["error"]["message"]
    async with client.post("/score", data=b'{"prompt": "\\ud83d\\ude80"}') as answer:
        assert answer.status == 200


THOUGHTFUL = {
    "messages": [
        HI,
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, text("Yes?")]},
        HI,
    ]
}


def test_the_path_of_a_body_decides_whose_api_it_is_of_before_its_fields_do() -> None:
    chats = chat_body_decoder(0)
    decoded = decode_prompt_or_chat(json.dumps(THOUGHTFUL).encode(), chats, of_anthropic=True)
    assert isinstance(decoded, ChatRequest)
    assert decoded.messages[1] == {"role": "assistant", "reasoning": "Hm.", "content": "Yes?"}
    for body in (THOUGHTFUL, {"messages": [HI], "system": "Be brief.", "thinking": {"type": "disabled"}}):
        decoded = decode_prompt_or_chat(json.dumps(body).encode(), chats, of_anthropic=False)
        assert isinstance(decoded, ChatRequest)
        assert (decoded.messages, decoded.reasoning_effort) == (body["messages"], None)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"system": "x", "messages": [{"role": [], "content": "x"}]}, "messages[0].role"),
        ({"messages": [HI], "system": "x", "tool_choice": {"type": []}}, "tool_choice.type"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "image", "source": 1}]}]}
                ]
            },
            "messages[0].content[0].content.source",
        ),
    ],
)
def test_values_of_a_wrong_type_in_anthropics_api_are_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        of_messages(body)
    assert (caught.value.status, caught.value.detail.param) == (400, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "Hi", "tools": 5}, "tools"),
        ({"input": "Hi", "tools": {"a": 1}}, "tools"),
        (
            {
                "input": [
                    {"role": "assistant", "content": [], "tool_calls": 5},
                    {"type": "function_call", "name": "f", "call_id": "c", "arguments": "{}"},
                ]
            },
            "input.tool_calls",
        ),
    ],
)
def test_values_of_a_wrong_type_in_a_response_are_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        of_responses(body)
    assert (caught.value.status, caught.value.detail.param) == (400, param)


def test_a_state_that_is_none_leaves_an_answer_finished() -> None:
    assert of_responses({"input": [{"role": "assistant", "content": "Yes", "status": []}]}) == {
        "messages": [{"role": "assistant", "content": "Yes"}]
    }


@pytest.mark.parametrize("prompt", ["x", [1, 2, 3]], ids=["text", "ids"])
@pytest.mark.parametrize("field", ["suffix", "prompt_embeds"])
async def test_what_would_be_another_prompt_is_refused_beside_texts_and_ids(
    serve: Serve, field: str, prompt: str | list[int]
) -> None:
    client = await serve()
    for path in ("/score", "/explain", "/v1/completions"):
        assert (await refused(client, path, {"prompt": prompt, field: "y"}))[:2] == (400, field)
