"""POST /v1/chat/completions, whole or streamed, and POST /v1/chat/completions/render."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from service.api.errors import Refusal
from service.api.prompts import AskedChat, ask_chat
from service.api.requests import ChatRequest, CompletionRequest, decode, read
from service.api.resources import INDEX
from service.api.responses import (
    Choice,
    Chunk,
    ChunkChoice,
    Completion,
    Delta,
    Message,
    RenderedChat,
    Scores,
    Usage,
    json_answer,
)
from service.api.scoring import scores

_completion = msgspec.json.Decoder(CompletionRequest)
_chat = msgspec.json.Decoder(ChatRequest)
_encoder = msgspec.json.Encoder()

_CHUNK_CHARACTERS: Final = 1024


async def complete(request: web.Request) -> web.StreamResponse:
    """There is no engine behind this endpoint: the answer shows the prompt that an engine would get."""
    body = decode(_completion, await read(request))
    streamed = body.stream or False
    if body.stream_options is not None and not streamed:
        raise Refusal(400, "`stream_options` needs `stream`: true", param="stream_options")
    asked = await ask_chat(request.app, body)
    found = scores(request.app, request.app[INDEX].match(asked.prompt))
    written = await _write(asked, found)
    if not streamed:
        return json_answer(written.whole())
    include_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    return await _stream(request, written, include_usage=include_usage)


async def render(request: web.Request) -> web.Response:
    """What would be sent to the model for a chat."""
    body = decode(_chat, await read(request))
    asked = await ask_chat(request.app, body)
    return json_answer(
        RenderedChat(
            request_id=_new_id(),
            model=asked.target.name,
            token_ids=asked.prompt.tokens.tolist(),
            prompt=asked.text,
            lora_name=asked.target.lora_name,
            cache_salt=body.cache_salt,
        )
    )


@dataclass(frozen=True, slots=True)
class _Written:
    """An answer, before it is sent whole or in chunks."""

    id: str
    created: int
    model: str
    content: str
    usage: Usage
    pod_scores: Scores

    def whole(self) -> Completion:
        choice = Choice(0, Message("assistant", self.content), "stop")
        return Completion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[choice],
            usage=self.usage,
            pod_scores=self.pod_scores,
        )

    def chunks(self, *, include_usage: bool) -> Iterator[Chunk]:
        """Chunks as OpenAI sends them: the role, the content, the end, and the usage if asked for."""
        usage = None if include_usage else UNSET
        first = self._chunk([ChunkChoice(0, Delta(role="assistant", content=""))], usage)
        first.pod_scores = self.pod_scores
        yield first
        for start in range(0, len(self.content), _CHUNK_CHARACTERS):
            piece = self.content[start : start + _CHUNK_CHARACTERS]
            yield self._chunk([ChunkChoice(0, Delta(content=piece))], usage)
        yield self._chunk([ChunkChoice(0, Delta(), "stop")], usage)
        if include_usage:
            yield self._chunk([], self.usage)

    def _chunk(self, choices: list[ChunkChoice], usage: Usage | UnsetType | None) -> Chunk:
        return Chunk(id=self.id, created=self.created, model=self.model, choices=choices, usage=usage)


async def _write(asked: AskedChat, found: Scores) -> _Written:
    content = f"Response based on template: {asked.text}..."
    prompt_tokens = len(asked.prompt.tokens)
    completion_tokens = len(await asked.model.tokenize(content, add_special_tokens=False))
    usage = Usage(prompt_tokens, completion_tokens, prompt_tokens + completion_tokens)
    return _Written(_new_id(), int(time.time()), asked.target.name, content, usage, found)


async def _stream(request: web.Request, written: _Written, *, include_usage: bool) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    for chunk in written.chunks(include_usage=include_usage):
        await response.write(b"data: " + _encoder.encode(chunk) + b"\n\n")
    await response.write_eof(b"data: [DONE]\n\n")
    return response


def _new_id() -> str:
    return f"chatcmpl-{uuid4().hex}"
