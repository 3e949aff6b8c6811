from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from service.fleet.parity import Verdict
from service.parity.comparison import Comparison, first_difference
from service.prompts.chat import Chat
from service.prompts.renderers.engine_api import EngineApi
from tests.service.engines import MODEL
from tests.service.parity.conftest import MakeModel

HELLO = {"hello": {"messages": [{"role": "user", "content": "Hello"}]}}
TEXT = {"text": "Hello"}


class Answers:
    """An engine that answers each path in the same way; 404 for others."""

    def __init__(self, answers: Mapping[str, tuple[int, Any]]) -> None:
        self._answers = answers

    async def handle(self, request: web.Request) -> web.Response:
        status, body = self._answers.get(request.path, (404, {"detail": "Not Found"}))
        return web.json_response(body, status=status)


@pytest.fixture
async def compare(make_model: MakeModel) -> AsyncIterator[Any]:
    runners = []
    async with aiohttp.ClientSession() as session:

        async def run(answers: Mapping[str, tuple[int, Any]]) -> Any:
            app = web.Application()
            app.add_routes([web.post("/{path:.*}", Answers(answers).handle)])
            runner = web.AppRunner(app, shutdown_timeout=0)
            runners.append(runner)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            api = EngineApi(session, f"http://127.0.0.1:{runner.addresses[0][1]}")
            return await Comparison(api, MODEL, await make_model(), HELLO, TEXT).run()

        yield run
        for runner in runners:
            await runner.cleanup()


async def test_an_engine_without_endpoints_for_tokens_is_not_known(compare: Any) -> None:
    parity = await compare({})
    assert parity.verdict is Verdict.UNKNOWN
    assert "neither" in parity.reason


async def test_an_engine_that_tokenizes_texts_only_is_known_for_texts(compare: Any, make_model: MakeModel) -> None:
    tokens = (await (await make_model()).tokenize("Hello")).tolist()
    parity = await compare({"/v1/completions/render": (200, [{"token_ids": tokens}])})
    assert (parity.chats, parity.texts, parity.verdict) == (Verdict.UNKNOWN, Verdict.EQUAL, Verdict.UNKNOWN)


async def test_tokenize_is_asked_where_render_endpoints_are_disabled(compare: Any, make_model: MakeModel) -> None:
    model = await make_model()
    chat = (await model.render(msgspec.convert(HELLO["hello"], Chat))).tokens.tolist()
    disabled = (403, {"error": "Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out."})
    parity = await compare(
        {
            "/v1/chat/completions/render": disabled,
            "/v1/completions/render": disabled,
            "/tokenize": (200, {"tokens": chat}),
        }
    )
    assert (parity.chats, parity.texts) == (Verdict.EQUAL, Verdict.DIFFERS)


async def test_a_salt_changes_no_tokens_so_that_tokenize_may_be_asked() -> None:
    app = web.Application()
    app.add_routes([web.post("/{path:.*}", Answers({"/tokenize": (200, {"tokens": [1, 2]})}).handle)])
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        api = EngineApi(session, str(server.make_url("")).rstrip("/"))
        salted = {**HELLO["hello"], "cache_salt": "tenant"}
        assert (await api.chat(MODEL, salted)).tokens.tolist() == [1, 2]


async def test_a_refusal_of_all_chats_is_no_equality(compare: Any) -> None:
    error = {"error": {"message": "no chat template"}}
    parity = await compare({"/v1/chat/completions/render": (400, error), "/v1/completions/render": (400, error)})
    assert parity.verdict is Verdict.UNKNOWN
    assert "no chat template" in parity.reason


async def test_one_token_more_is_a_difference(compare: Any, make_model: MakeModel) -> None:
    tokens = (await (await make_model()).tokenize("Hello")).tolist()
    parity = await compare({"/v1/completions/render": (200, [{"token_ids": [*tokens, 7]}])})
    assert parity.texts is Verdict.DIFFERS
    assert (parity.difference.request, parity.difference.position) == ("text", len(tokens))


async def test_an_unknown_model_of_the_engine_is_named(compare: Any) -> None:
    missing = (404, {"error": {"message": "The model `x` does not exist."}})
    parity = await compare({"/v1/chat/completions/render": missing, "/tokenize": missing})
    assert "does not exist" in parity.reason


async def test_a_difference_of_a_chat_without_features_concerns_all(compare: Any) -> None:
    parity = await compare({"/v1/chat/completions/render": (200, {"token_ids": [1]})})
    assert (parity.chats, parity.confined) == (Verdict.DIFFERS, ())


def test_the_first_difference_of_two_lists() -> None:
    assert first_difference([1, 2], [1, 2]) is None
    assert first_difference([1, 2], [1, 3]) == 1
    assert first_difference([1, 2], [1]) == 1
    assert first_difference([], [1]) == 0
