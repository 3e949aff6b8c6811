from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from service.app import create_app
from service.contract.settings import Settings
from service.readiness import Readiness


async def test_resources_that_have_started_are_stopped_when_a_later_one_fails(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **_named: object) -> None:
        raise RuntimeError("no readiness today")

    monkeypatch.setattr(Readiness, "__init__", fail)
    before = asyncio.all_tasks()
    runner = web.AppRunner(create_app(settings))
    with pytest.raises(RuntimeError, match="no readiness today"):
        await runner.setup()
    await runner.cleanup()
    assert asyncio.all_tasks() == before
