from __future__ import annotations

import asyncio
from array import array
from collections.abc import Mapping
from typing import Any, cast

import pytest

from service.index.base import Medium
from service.prompts.chat import Chat
from service.prompts.errors import ModelUnavailable, PromptError
from service.prompts.renderers.engine import EngineRenderer, chat_body, media_of
from service.prompts.renderers.engine_api import EngineApi, EngineRefused, EngineSilent, EngineTokens

CHAT = Chat(messages=[{"role": "user", "content": "Hi"}])


class Engine:
    """An engine that answers with tokens or an error, when it may."""

    def __init__(self, answer: EngineTokens | Exception) -> None:
        self.asked = self.at_once = self.most_at_once = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.two = asyncio.Event()
        """Set when two requests wait."""
        self._answer = answer

    async def chat(self, model: str, body: Mapping[str, Any], *, may_tokenize: bool) -> EngineTokens:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        if self.at_once == 2:
            self.two.set()
        await self.may_answer.wait()
        self.at_once -= 1
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    @property
    def api(self) -> EngineApi:
        return cast("EngineApi", self)


TOKENS = EngineTokens(array("I", [1, 2, 3]))


async def test_the_engines_tokens_are_remembered_for_the_same_request() -> None:
    engine, renderer = Engine(TOKENS), EngineRenderer()
    for _ in range(3):
        assert (await renderer.chat([engine.api], "m", CHAT)).tokens == TOKENS.tokens
    assert engine.asked == 1
    await renderer.chat([engine.api], "other", CHAT)
    await renderer.chat([engine.api], "m", Chat(messages=CHAT.messages, add_generation_prompt=False))
    assert engine.asked == 3
    renderer.forget()
    await renderer.chat([engine.api], "m", CHAT)
    assert engine.asked == 4


async def test_an_answer_is_not_remembered_for_long_since_prompts_may_have_a_date() -> None:
    now = 0.0
    engine, renderer = Engine(TOKENS), EngineRenderer(clock=lambda: now)
    await renderer.chat([engine.api], "m", CHAT)
    now = 61.0
    await renderer.chat([engine.api], "m", CHAT)
    assert engine.asked == 2


async def test_the_next_engine_is_asked_if_one_is_silent() -> None:
    silent, engine = Engine(EngineSilent("refused")), Engine(TOKENS)
    assert (await EngineRenderer().chat([silent.api, engine.api], "m", CHAT)).tokens == TOKENS.tokens


async def test_a_silent_engine_makes_the_model_unavailable_within_the_time_limit() -> None:
    slow = Engine(TOKENS)
    slow.may_answer.clear()
    with pytest.raises(ModelUnavailable, match=r"within 0\.05 s"):
        await EngineRenderer(timeout=0.05).chat([slow.api], "m", CHAT)
    with pytest.raises(ModelUnavailable, match="no engine"):
        await EngineRenderer().chat([], "m", CHAT)
    with pytest.raises(ModelUnavailable, match="broken"):
        await EngineRenderer().chat([Engine(EngineSilent("broken")).api], "m", CHAT)


async def test_a_refusal_of_the_engine_is_the_requests_fault() -> None:
    with pytest.raises(PromptError, match="no such role"):
        await EngineRenderer().chat([Engine(EngineRefused("no such role")).api], "m", CHAT)


async def test_never_more_than_a_few_prompts_at_once() -> None:
    engine, renderer = Engine(TOKENS), EngineRenderer(timeout=30, concurrency=2)
    engine.may_answer.clear()
    chats = [Chat(messages=[{"role": "user", "content": str(number)}]) for number in range(6)]
    tasks = [asyncio.create_task(renderer.chat([engine.api], "m", chat)) for chat in chats]
    async with asyncio.timeout(10):
        await engine.two.wait()
    engine.may_answer.set()
    await asyncio.gather(*tasks)
    assert (engine.asked, engine.most_at_once) == (6, 2)


def test_a_body_has_the_fields_that_decide_about_the_prompt() -> None:
    assert chat_body(CHAT) == {"messages": CHAT.messages, "add_generation_prompt": True}
    chat = Chat(messages=CHAT.messages, reasoning_effort="low", mm_processor_kwargs={"fps": 1})
    assert chat_body(chat) == {**chat_body(CHAT), "reasoning_effort": "low", "mm_processor_kwargs": {"fps": 1}}


def test_features_name_the_media_in_the_order_of_the_prompt() -> None:
    features = {
        "mm_hashes": {"image": ["b", "c"], "audio": ["a"]},
        "mm_placeholders": {
            "image": [{"offset": 20, "length": 4}, {"offset": 30, "length": 4}],
            "audio": [{"offset": 2, "length": 9}],
        },
    }
    assert media_of(features) == (Medium("a", 2, 9), Medium("b", 20, 4), Medium("c", 30, 4))
    assert media_of(None) == media_of({}) == ()


@pytest.mark.parametrize(
    "features",
    [
        {"mm_hashes": {"image": ["a"]}},
        {"mm_hashes": {"image": ["a"]}, "mm_placeholders": {"image": []}},
        {"mm_hashes": [1], "mm_placeholders": []},
        {"mm_hashes": {"image": ["a"]}, "mm_placeholders": {"image": [{"offset": -1, "length": 1}]}},
        {
            "mm_hashes": {"image": ["a", "b"]},
            "mm_placeholders": {"image": [{"offset": 0, "length": 5}, {"offset": 3, "length": 5}]},
        },
    ],
)
def test_malformed_features_are_refused(features: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match="features"):
        media_of(features)
