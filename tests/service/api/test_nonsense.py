from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession

from service.api.routes import ROUTES, Route
from tests.conftest import BUILTIN
from tests.service.api.conftest import CHAT
from tests.service.conftest import Serve
from tests.tries import tries

ATOMS: Sequence[Any] = (
    *(None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, 2**31, 2**32 - 1, 2**32, 2**63, 2**64, -(2**63), 10**30),
    *(
        "",
        " ",
        "\0",
        "\u2028",
        "\ufeff",
        "😀",
        "{{ 1/0 }}",
        "{% for x in y %}",
        "<|end|>",
        "../../etc",
        "a\nb",
        "x" * 3000,
    ),
    *("user", "assistant", "tool", "text", "image_url", "function", "auto", "required", "low"),
)
KEYS = (
    "role",
    "content",
    "type",
    "text",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "parameters",
    "",
    "\0",
    "__class__",
)
GOOD: dict[str, Any] = {**CHAT, "prompt": "hello", "tokens": [1, 2, 3]}


def made_up_fields(body: type[msgspec.Struct]) -> list[str]:
    """The fields that may hold nonsense. No name of a model is made up: the hub would be asked for it."""
    return [field.encode_name for field in msgspec.structs.fields(body) if field.encode_name != "model"]


POSTS = [route for route in ROUTES if route.method == "POST" and any(map(made_up_fields, route.bodies))]


def nonsense(chance: random.Random, depth: int = 0) -> Any:
    """Any JSON value, most often one that means something elsewhere."""
    kind = chance.random()
    if depth > 4 or kind < 0.5:
        return chance.choice(ATOMS)
    if kind < 0.75:
        return [nonsense(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(KEYS): nonsense(chance, depth + 1) for _ in range(chance.randrange(4))}


def bodies(route: Route, chance: random.Random, number: int) -> list[dict[str, Any]]:
    """Bodies that are good but for one or two fields."""
    made = []
    for _ in range(number):
        fields = made_up_fields(chance.choice(route.bodies))
        body = {name: GOOD[name] for name in fields if name in GOOD}
        for name in chance.choices(fields, k=chance.choice((1, 1, 2))):
            body[name] = nonsense(chance)
        made.append(body)
    return made


async def check(client: ClientSession, path: str, data: bytes) -> int:
    async with client.post(path, data=data) as answer:
        text = await answer.text()
    assert answer.status in (200, 201, 400, 404, 409, 413), (data, text)
    if answer.status >= 400:
        error = json.loads(text)["error"]
        assert answer.status != 404 or error["code"] == "pod_not_found", (data, text)
        assert set(error) == {"message", "type", "param", "code"}
        assert len(error["message"]) < 1000, data
        assert "Traceback" not in error["message"] and "object at 0x" not in error["message"], (data, error)
    return answer.status


@pytest.mark.parametrize("route", POSTS, ids=lambda route: route.path)
async def test_nonsense_in_any_field_never_causes_an_internal_error(
    serve: Serve, route: Route, caplog: pytest.LogCaptureFixture
) -> None:
    client = await serve()
    chance = random.Random(route.path)
    statuses = {
        await check(client, route.path, json.dumps(body).encode()) for body in bodies(route, chance, tries(40, 300))
    }
    assert 400 in statuses
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


NOT_JSON_OR_NOT_TEXT = (
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"{",
    b"\xff\xfe",
    b'{"prompt": "\\ud800", "messages": [{"role": "user", "content": "\\udc00"}], "tokens": ["\\ud800"]}',
    b'{"prompt": "\xff", "messages": [{"role": "user", "content": "\xff"}], "tokens": ["\xff"]}',
    b'{"prompt": NaN, "messages": NaN, "tokens": NaN}',
    b'{"prompt": [NaN], "messages": [NaN], "tokens": [NaN]}',
    b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b', "tokens": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"messages": [{"role": "user", "content": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}]}",
)


@pytest.mark.parametrize("route", POSTS, ids=lambda route: route.path)
async def test_a_body_that_is_not_json_or_not_utf8_is_a_bad_request(serve: Serve, route: Route) -> None:
    client = await serve()
    for data in NOT_JSON_OR_NOT_TEXT:
        assert await check(client, route.path, data) == 400, data[:80]


@pytest.mark.parametrize("depth", [100, 300, 600, 900, 2000])
async def test_deep_nesting_is_a_bad_request_or_is_rendered(
    serve: Serve, depth: int, caplog: pytest.LogCaptureFixture
) -> None:
    client = await serve()
    deep = '{"a":' * depth + "1" + "}" * depth
    message = '{"role": "user", "content": "x"}'
    for fields in (
        f'"messages": [{{"role": "assistant", "tool_calls": [{deep}], "content": "x"}}]',
        f'"messages": [{{"role": "user", "content": "x", "extra": {deep}}}]',
        f'"messages": [{message}], "tools": [{{"type": "function", "function": {deep}}}]',
        f'"messages": [{message}], "tools": [{{"function": {{"name": "f", "parameters": {deep}}}}}]',
        f'"messages": [{message}], "documents": [{deep}]',
        f'"messages": [{message}], "chat_template_kwargs": {deep}',
    ):
        for path in ("/score_completions", "/v1/chat/completions", "/tokenize", "/explain"):
            await check(client, path, f"{{{fields}}}".encode())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


ODD_TYPES: Sequence[Any] = ([], {}, 1, True, None, [[]], {"a": 1}, "image_url", "", "x")


@pytest.mark.parametrize("path", ["/score", "/explain", "/tokenize", "/v1/chat/completions"])
async def test_a_content_part_of_any_type_is_never_an_internal_error(serve: Serve, path: str) -> None:
    client = await serve()
    for kind in ODD_TYPES:
        part = {"type": kind, "text": "x"}
        await check(client, path, json.dumps({"messages": [{"role": "user", "content": [part]}]}).encode())


async def test_a_model_name_that_the_hub_does_not_allow_is_not_found(serve: Serve) -> None:
    client = await serve(models=("*",))
    for name in ("org/a--b", "a..b", "a.", "org/a.git", "-a", "a/b/c", "\0"):
        async with client.post("/score", json={"prompt": "x", "model": name}) as answer:
            assert answer.status == 404, name


OF_ANTHROPIC: dict[str, Any] = {
    "model": "builtin/demo",
    "max_tokens": 5,
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Ask."},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "c1",
                    "content": [
                        {"type": "text", "text": "12"},
                        {"type": "image", "source": {"type": "url", "url": "http://localhost/x.png"}},
                        {"type": "tool_reference", "tool_name": "weather"},
                    ],
                }
            ],
        },
    ],
    "tools": [{"name": "weather", "description": "Of a city", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "auto"},
    "thinking": {"type": "disabled"},
    "output_config": {"effort": "low"},
}
OF_RESPONSES: dict[str, Any] = {
    "model": "builtin/demo",
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Ask."}], "summary": []},
        {"role": "assistant", "content": [], "tool_calls": []},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "12"},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "W"}],
            "status": "incomplete",
        },
    ],
    "tools": [{"type": "function", "name": "weather", "description": "Of a city", "parameters": {"type": "object"}}],
    "tool_choice": {"type": "function", "name": "weather"},
    "reasoning": {"effort": "low"},
    "truncation": "auto",
}
OF_CHATS: dict[str, Any] = {
    "model": "builtin/demo",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "developer",
            "content": [{"type": "text", "text": "Be kind."}],
            "tools": [{"function": {"name": "f"}}],
        },
        {"role": "user", "name": "Ada", "content": [{"type": "text", "text": "Weather?"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning": "Ask.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "12"}]},
    ],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "documents": [{"title": "One", "text": "The first."}],
    "chat_template_kwargs": {"enable_thinking": False},
    "reasoning_effort": "low",
    "cache_salt": "s",
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of each value within a body, except of the model's name: the hub would be asked for it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    below = [place for key, one in inner if key != "model" for place in places(one, (*path, key))]
    return [path, *below] if path else below


def broken(body: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """A body with nonsense in place of one of its values, wherever that is."""
    made: dict[str, Any] = copy.deepcopy(body)
    *path, last = chance.choice(places(made))
    inner: Any = made
    for key in path:
        inner = inner[key]
    inner[last] = nonsense(chance)
    return made


def oddly_rendered(folder: Path) -> None:
    """Gives the built-in model's files to a model of type gpt_oss."""
    (folder / "oss").mkdir(parents=True)
    for file in BUILTIN.iterdir():
        (folder / "oss" / file.name).symlink_to(file)
    (folder / "oss" / "config.json").write_text('{"model_type": "gpt_oss"}')


@pytest.mark.parametrize("model", ["builtin/demo", "oss"])
@pytest.mark.parametrize("good", [OF_ANTHROPIC, OF_RESPONSES, OF_CHATS], ids=["anthropic", "responses", "chats"])
async def test_nonsense_anywhere_in_a_body_of_any_api_never_causes_an_internal_error(
    serve: Serve, good: dict[str, Any], model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if model == "oss":
        pytest.importorskip("openai_harmony", reason="oss-harmony is not installed")
    oddly_rendered(tmp_path)
    client = await serve(models_dir=tmp_path)
    chance = random.Random(7)
    for _ in range(tries(150, 1500)):
        await check(client, "/score", json.dumps({**broken(good, chance), "model": model}).encode())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_nonsense_in_a_chat_of_mistrals_own_format_never_causes_an_internal_error(
    serve: Serve, shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("mistral_common", reason="mistral-common is not installed")
    client = await serve(models_dir=shared / "models")
    chance = random.Random(7)
    good = {name: value for name, value in OF_CHATS.items() if name != "chat_template_kwargs"}
    for _ in range(tries(150, 1500)):
        body = {**broken(good, chance), "model": "mistralai/Mistral-Nemo-Instruct-2407"}
        await check(client, "/score", json.dumps(body).encode())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("length", [255, 256, 1024])
async def test_a_model_name_that_is_no_file_name_is_not_found(serve: Serve, length: int) -> None:
    client = await serve()
    for name in ("x" * length, "builtin/" + "x" * (length - 8), "org/" + "ü" * (length - 4)):
        async with client.post("/score", json={"prompt": "x", "model": name}) as answer:
            assert answer.status == 404, name
