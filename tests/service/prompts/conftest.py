from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from service.contract.settings import Settings
from service.prompts.models.catalog import Models


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    """The models that are built in; the same for all tests of a module."""
    models = Models(Settings())
    yield models
    asyncio.run(models.close())
