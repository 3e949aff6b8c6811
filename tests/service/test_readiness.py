from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.conftest import BUILTIN
from tests.service.conftest import Serve


async def test_the_service_becomes_ready_when_the_files_of_its_model_appear(
    serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(folder / "cache"))
    client = await serve(model_name="org/late", hub_retry_after=0.1)
    async with asyncio.timeout(20):
        reasons: list[str] = []
        while not reasons or "being loaded" in reasons[0]:
            async with client.get("/ready") as answer:
                assert answer.status == 503
                reasons = (await answer.json())["reasons"]
        assert "org/late" in reasons[0]
        shutil.copytree(BUILTIN, folder / "models" / "org" / "late")
        while (await client.get("/ready")).status != 200:
            pass
        async with client.post("/score", json={"prompt": "a text for the default model"}) as answer:
            assert (answer.status, await answer.json()) == (200, None)
