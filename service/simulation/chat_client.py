"""Streamed chats with an engine or a gateway: text, usage and time to first token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from service.simulation.service_client import ServiceError

_ANSWER_SECONDS = 60.0


class ChatRefused(ServiceError):
    """The answer is 400: the request cannot be served by this engine."""


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """A whole answer: `first_token` is in seconds since the request, the counts are the engine's usage."""

    text: str
    prompt_tokens: int
    cached_tokens: int
    first_token: float
    headers: Mapping[str, str]


class ChatClient:
    """An asynchronous context manager for chats with one model."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ask(self, url: str, messages: Sequence[Mapping[str, str]]) -> ChatAnswer:
        """Streams a chat to its end. Raises ServiceError, ChatRefused for status 400."""
        path = f"{url}/v1/chat/completions"
        body = {
            "model": self._model,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        sent = perf_counter()
        try:
            async with self._session.post(path, json=body) as response:
                if response.status != 200:
                    refused = ChatRefused if response.status == 400 else ServiceError
                    raise refused(f"POST {path}: {response.status} {_message(await response.read())}")
                first: float | None = None
                chunks: list[dict[str, Any]] = []
                async for line in response.content:
                    if line.startswith(b"data: {"):
                        first = first or perf_counter() - sent
                        chunks.append(msgspec.json.decode(line[6:]))
                return _answer(path, chunks, first, response.headers)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            raise ServiceError(f"POST {path}: {error or type(error).__name__}") from error


def _answer(path: str, chunks: Sequence[dict[str, Any]], first: float | None, headers: Mapping[str, str]) -> ChatAnswer:
    if first is None or not (usage := chunks[-1].get("usage")):
        raise ServiceError(f"POST {path}: the stream ended early, with {chunks[-1] if chunks else 'no event'}")
    parts = (choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    return ChatAnswer(
        "".join(parts), usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"], first, headers
    )


def _message(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
