"""OpenAI's own client. It takes half a second to load, so that only a test that uses it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai import AsyncOpenAI


def official_client(url: str) -> AsyncOpenAI:
    """A client of what listens at a URL, which asks once; to be used in `async with`."""
    from openai import AsyncOpenAI  # noqa: PLC0415 - slow to load

    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
