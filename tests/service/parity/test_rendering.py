"""Prompts are rendered by the engine where our tokens are known to differ, or cannot be known."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from service.prompts.renderers.engine_api import EngineApi
from service.prompts.truncation import Truncation
from tests.conftest import BUILTIN
from tests.service.conftest import Serve
from tests.service.engines import MODEL, chat
from tests.service.parity.conftest import MakeModel, StartEngine
from tests.service.parity.test_watcher import SHOUTING, parities, started
from tests.waiting import PATIENCE

LONG = "Why would two engines share one cache? " * 20
FORGETFUL = "{% for message in messages %}{% if message.reasoning %}<|end|>{% endif %}{% endfor %}"
WITH_REASONING = ["tool call with reasoning", "turn after a tool call", "reasoning", "reasoning content"]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
WITH_IMAGE = {
    "model": MODEL,
    "messages": [
        {"role": "system", "content": LONG},
        {"role": "user", "content": [IMAGE, {"type": "text", "text": "What is it?"}]},
    ],
}


async def posted(client: ClientSession, path: str, body: Any) -> tuple[Any, dict[str, str]]:
    async with client.post(path, json=body) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json(), {
            name.removeprefix("X-Kvcache-"): value for name, value in answer.headers.items() if "Kvcache" in name
        }


async def test_a_chat_whose_tokens_differ_is_rendered_by_its_engine(serve: Serve, start_engine: StartEngine) -> None:
    engine = await start_engine(SHOUTING)
    client = await started(serve, engine)
    found, headers = await posted(client, "/v1/chat/completions", chat(LONG))
    assert headers["Renderer"] == "engine"
    assert headers["Parity"] == "equal"
    async with asyncio.timeout(PATIENCE):
        while True:
            scores, headers = await posted(client, "/score", chat(LONG))
            if scores:
                break
            await asyncio.sleep(0.01)
    assert (headers["Renderer"], headers["Parity"]) == ("engine", "equal")
    explained, _ = await posted(client, "/explain", chat(LONG))
    assert explained["text"].startswith("<USER>Why")
    assert explained["tokens"] == found["usage"]["prompt_tokens"]
    assert explained["matches"][0]["matched_blocks"] == explained["matches"][0]["blocks"]


async def test_only_chats_with_reasoning_go_to_an_engine_that_renders_only_these_differently(
    serve: Serve, start_engine: StartEngine
) -> None:
    engine = await start_engine((BUILTIN / "chat_template.jinja").read_text() + FORGETFUL)
    client = await started(serve, engine)
    (parity,) = await parities(client)
    assert (parity["chats"], parity["differing"]) == ("differs", WITH_REASONING)
    assert parity["remedy"].startswith("Nothing: only chats with reasoning or with reasoning_content differ")
    earlier = {"role": "assistant", "content": "2", "reasoning": "Simple."}
    thoughtful = {"model": MODEL, "messages": [{"role": "user", "content": "1+1?"}, earlier]}
    for body, renderer in ((chat("Hi"), "template"), (thoughtful, "engine"), (chat("Hi"), "template")):
        _, headers = await posted(client, "/score", body)
        assert (headers["Renderer"], headers["Parity"]) == (renderer, "equal")


async def test_pods_that_render_differently_are_said_to_differ(serve: Serve, start_engine: StartEngine) -> None:
    client = await started(serve, await start_engine(SHOUTING), await start_engine())
    _, headers = await posted(client, "/score", chat("Hi"))
    assert (headers["Renderer"], headers["Parity"]) == ("engine", "differs")


async def test_the_operator_decides_before_the_parity(serve: Serve, start_engine: StartEngine) -> None:
    engine = await start_engine(SHOUTING)
    client = await started(serve, engine, renderers=((MODEL, "template"),))
    _, headers = await posted(client, "/score", chat("Hi"))
    assert (headers["Renderer"], headers["Parity"]) == ("template", "differs")


async def test_the_engine_renders_what_the_operator_gives_to_it(serve: Serve, start_engine: StartEngine) -> None:
    engine = await start_engine()
    client = await started(serve, engine, renderers=((MODEL, "engine"),))
    for body in (chat("Hi"), {"prompt": "Hi", "model": MODEL}):
        _, headers = await posted(client, "/score", body)
        assert headers["Renderer"] == "engine"
    tokenized, _ = await posted(client, "/tokenize", chat("Hi"))
    assert tokenized["count"] > 0


async def test_a_model_without_a_tokenizer_here_is_rendered_by_its_engine(
    serve: Serve, start_engine: StartEngine
) -> None:
    engine = await start_engine(served_models=["theirs"])
    client = await started(serve, engine, model_aliases=(("theirs", "/nowhere"),))
    scores, headers = await posted(client, "/score", {**chat("Hi"), "model": "theirs"})
    assert (scores, headers["Renderer"]) == (None, "engine")
    scores, headers = await posted(client, "/score", {"prompt": "Hi", "model": "theirs"})
    assert (scores, headers["Renderer"]) == (None, "engine")


async def test_a_model_whose_format_is_code_of_its_engine_is_rendered_by_it(
    serve: Serve, start_engine: StartEngine, tmp_path: Path
) -> None:
    folder = tmp_path / "theirs"
    shutil.copytree(BUILTIN, folder)
    (folder / "config.json").write_text('{"architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32"}')
    alone = await serve(models_dir=tmp_path)
    async with alone.post("/score", json={**chat("Hi"), "model": "theirs"}) as answer:
        message = (await answer.json())["error"]["message"]
        assert (answer.status, "encodes chats in code" in message, "RENDER_URL" in message) == (503, True, True)
    _, headers = await posted(alone, "/score", {"prompt": "Hi", "model": "theirs"})
    assert headers["Renderer"] == "tokenizer"
    engine = await start_engine(served_models=["theirs"])
    client = await started(serve, engine, models_dir=tmp_path)
    _, headers = await posted(client, "/score", {**chat("Hi"), "model": "theirs"})
    assert headers["Renderer"] == "engine"


async def test_a_render_server_is_asked_without_any_pod(serve: Serve, start_engine: StartEngine) -> None:
    engine = await start_engine(SHOUTING)
    client = await serve(render_url=engine.url, renderers=((MODEL, "engine"),))
    found, headers = await posted(client, "/v1/chat/completions", chat("Hi"))
    assert headers["Renderer"] == "engine"
    assert found["usage"]["completion_tokens"] > 0
    await engine.stop()
    async with client.post("/score", json=chat("Ho")) as answer:
        assert answer.status == 503
        assert "does not answer" in (await answer.json())["error"]["message"]


async def test_a_render_server_that_renders_unlike_a_pod_is_not_asked(
    serve: Serve, start_engine: StartEngine, caplog: pytest.LogCaptureFixture
) -> None:
    server, engine = await start_engine(SHOUTING), await start_engine()
    client = await started(serve, engine, render_url=server.url, renderers=((MODEL, "engine"),))
    async with asyncio.timeout(PATIENCE):
        while True:
            if "it is not asked for this model" in caplog.text:
                break
            await asyncio.sleep(0.01)
    explained, headers = await posted(client, "/explain", chat("Hey"))
    assert headers["Renderer"] == "engine"
    assert not explained["text"].startswith("<USER>")


async def test_a_render_server_that_renders_like_the_pod_is_asked_before_it(
    serve: Serve, start_engine: StartEngine
) -> None:
    server, pod = await start_engine(), await start_engine()
    client = await started(serve, pod, render_url=server.url, renderers=((MODEL, "engine"),))
    await pod.stop()
    _, headers = await posted(client, "/score", chat("Nobody has asked this before"))
    assert headers["Renderer"] == "engine"


async def test_without_a_renderer_for_media_the_text_before_them_is_scored(serve: Serve) -> None:
    client = await serve()
    explained, headers = await posted(client, "/explain", WITH_IMAGE)
    assert LONG in explained["text"]
    assert "kvcache-medium" not in explained["text"]
    assert headers["Renderer"] == "template"
    assert int(headers["Known-Tokens"]) == explained["known_tokens"] == explained["tokens"] > 100
    whole, _ = await posted(client, "/explain", {"model": MODEL, "messages": WITH_IMAGE["messages"][:1]})
    assert whole["text"].startswith(explained["text"][:-20])


async def test_a_chat_that_begins_with_a_medium_has_few_known_tokens(serve: Serve) -> None:
    client = await serve()
    body = {"model": MODEL, "messages": [{"role": "user", "content": [IMAGE]}]}
    explained, _ = await posted(client, "/explain", body)
    assert explained["known_tokens"] < 60


@pytest.mark.parametrize("truncation", [Truncation(5), Truncation(5, "left"), Truncation(5, "right"), Truncation(-1)])
async def test_a_text_that_an_engine_renders_is_truncated_as_here(
    start_engine: StartEngine, make_model: MakeModel, truncation: Truncation
) -> None:
    engine, model = await start_engine(), await make_model()
    async with ClientSession() as session:
        found = await EngineApi(session, engine.url).text(MODEL, LONG, truncation=truncation)
    assert found.tokens == await model.tokenize(LONG, truncation=truncation)


async def test_what_is_known_before_a_medium_is_truncated_with_the_prompt(serve: Serve) -> None:
    client = await serve()
    known = {}
    for side in ("left", "right", None):
        body = {**WITH_IMAGE, "truncate_prompt_tokens": 20, **({"truncation_side": side} if side else {})}
        known[side] = (await posted(client, "/explain", body))[0]["known_tokens"]
    assert known == {"left": 0, "right": 20, None: 0}


async def test_a_whole_number_of_any_size_reaches_the_engine(serve: Serve, start_engine: StartEngine) -> None:
    engine = await start_engine()
    client = await started(serve, engine, renderers=((MODEL, "engine"),))
    tool = {"type": "function", "function": {"name": "f", "parameters": {"maximum": 10**30}}}
    _, headers = await posted(client, "/score", chat("Hi", tools=[tool]))
    assert headers["Renderer"] == "engine"
