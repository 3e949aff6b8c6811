"""An engine that falls silent within a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from service.gateway.retries import Limits
from service.simulation.scheduler import Speed
from tests.service.engines import StartEngine, chat
from tests.service.gateway.bare import bare_gateway
from tests.waiting import PATIENCE


@pytest.fixture
async def silent(start_engine: StartEngine) -> AsyncIterator[str]:
    """The URL of a gateway with short limits, before an engine that generates a token each 0.2 s."""
    engine = await start_engine(speed=Speed(decode_seconds=0.2))
    async with bare_gateway(engine.url, engine.pod, Limits(silence=PATIENCE, keep_alive=0.05)) as url:
        yield url


async def test_a_silent_stream_has_keep_alive_comments_between_its_events(silent: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{silent}/v1/chat/completions", json=chat("Hello", stream=True, max_tokens=3)) as response,
    ):
        events = (await response.text()).split("\n\n")
    comments = [event for event in events if event.startswith(":")]
    assert set(comments) == {": keep-alive"}
    assert len(comments) >= 2
    assert events[-2] == "data: [DONE]"


async def test_an_answer_that_is_not_streamed_has_no_comments(silent: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{silent}/v1/chat/completions", json=chat("Hello", max_tokens=3)) as response,
    ):
        assert (await response.json())["usage"]["completion_tokens"] == 3
