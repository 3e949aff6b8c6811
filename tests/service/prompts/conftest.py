from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from service.prompts.models.catalog import Models
from service.prompts.options import PromptOptions
from tests.service.prompts.fake_hub import FakeHub, running_hub


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    """The models that are built in; the same for all tests of a module."""
    models = Models(PromptOptions())
    yield models
    asyncio.run(models.close())


@pytest.fixture
async def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeHub]:
    constants = huggingface_hub.constants
    async with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        # The library waits a second before it takes up a download again.
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
        yield hub
