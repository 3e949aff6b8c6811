from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from service.prompts.models.catalog import Models
from service.prompts.models.model import Model
from service.prompts.options import PromptOptions
from service.simulation.server import EngineOptions, EngineServer, serving
from tests.conftest import BUILTIN
from tests.service.engines import MODEL

StartEngine: TypeAlias = Callable[..., Awaitable[EngineServer]]
MakeModel: TypeAlias = Callable[..., Awaitable[Model]]


@pytest.fixture
async def make_model(tmp_path: Path) -> AsyncIterator[MakeModel]:
    """Makes a model with the tokenizer of the built-in one and another template."""
    models = Models(PromptOptions(models_dir=tmp_path))

    async def make(template: str | None = None, name: str = "other") -> Model:
        if template is None:
            return await models.get(MODEL)
        shutil.copytree(BUILTIN, tmp_path / name)
        (tmp_path / name / "chat_template.jinja").write_text(template, encoding="utf-8")
        return await models.get(name)

    yield make
    await models.close()


@pytest.fixture
async def start_engine(make_model: MakeModel) -> AsyncIterator[StartEngine]:
    """Starts simulated engines of the built-in model; `template` is another chat template."""
    async with AsyncExitStack() as stack:

        async def start(template: str | None = None, **options: Any) -> EngineServer:
            made = EngineOptions(**{"served_models": [MODEL], "kept_requests": 1000, **options})
            return await stack.enter_async_context(serving(made, await make_model(template)))

        yield start
