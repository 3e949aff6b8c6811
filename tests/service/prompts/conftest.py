from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from service.prompts.models import Models
from service.settings import Settings


@pytest.fixture
async def models() -> AsyncIterator[Models]:
    """Models that are on no disk but in the package."""
    models = Models(Settings())
    yield models
    await models.close()
