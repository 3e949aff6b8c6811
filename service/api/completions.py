"""POST /v1/chat/completions, whole or streamed, and POST /v1/chat/completions/render."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final
from uuid import uuid4

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from service.api.body import read_body
from service.api.errors import ApiError
from service.api.forwarding import forward
from service.api.requests import ChatRequest, CompletionRequest, decode, decode_prompt_or_chat
from service.api.resolver import PromptResolver, ResolvedChat
from service.api.resources import CHAT_DECODER, FLEET, RESOLVER, SCORER, reservation_of, waiting_for_client
from service.api.responses import (
    Choice,
    Chunk,
    ChunkChoice,
    Completion,
    Delta,
    Message,
    RenderedChat,
    TextChoice,
    TextCompletion,
    Usage,
    json_response,
    origin_headers,
)
from service.index.base import TokenIds
from service.index.scoring import Scores, sum_scores

_completion = msgspec.json.Decoder(CompletionRequest)
_chat = msgspec.json.Decoder(ChatRequest)
_encoder = msgspec.json.Encoder()

_CHUNK_CHARACTERS: Final = 1024
_ECHO: Final = "X-Kvcache-Echo"


async def complete(request: web.Request) -> web.StreamResponse:
    """Forwards the request to a pod. Without pods, answers with the prompt that an engine would get."""
    if request.app[FLEET].receives_requests:
        return await forward(request)
    return await _echo(request)


async def _echo(request: web.Request) -> web.StreamResponse:
    body = decode(_completion, await read_body(request))
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "`stream_options` needs `stream`: true", param="stream_options")
    resolved = await request.app[RESOLVER].chat(body)
    answer = await _answer(request.app[RESOLVER], resolved, request.app[SCORER].scores(resolved.prompt))
    headers = {_ECHO: "true", **origin_headers(*resolved.origin)}
    if not body.stream:
        return json_response(answer.completion(), headers=headers)
    include_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    return await _stream(request, answer, headers, include_usage=include_usage)


async def complete_text(request: web.Request) -> web.StreamResponse:
    """Forwards a text completion to the best pod. Without pods, answers with the prompt that an engine would get."""
    if request.app[FLEET].receives_requests:
        return await forward(request)
    wanted = decode_prompt_or_chat(await read_body(request), request.app[CHAT_DECODER])
    if isinstance(wanted, ChatRequest):
        raise ApiError(400, "`prompt` is missing", param="prompt", code="missing_field")
    resolver, scorer = request.app[RESOLVER], request.app[SCORER]
    resolved = await resolver.prompts(wanted)
    target, texts = resolved[0].target, [_echoed(one.text, one.prompt.tokens) for one in resolved]
    prompt_tokens = sum(len(one.prompt.tokens) for one in resolved)
    tokens = sum([await resolver.tokens_of(target.model, text) for text in texts]) if resolved[0].model else 0
    completion = TextCompletion(
        id=f"cmpl-{uuid4().hex}",
        created=int(time.time()),
        model=target.name,
        choices=[TextChoice(number, text, "stop") for number, text in enumerate(texts)],
        usage=Usage(prompt_tokens, tokens, prompt_tokens + tokens),
        pod_scores=sum_scores([scorer.scores(one.prompt) for one in resolved]),
    )
    return json_response(completion, headers={_ECHO: "true", **origin_headers(*resolved[0].origin)})


def _echoed(text: str | None, tokens: TokenIds) -> str:
    return f"Response based on template: {text if text is not None else tokens.tolist()}..."


async def render(request: web.Request) -> web.Response:
    """Returns the text and the tokens that the model would receive for a chat."""
    body = decode(_chat, await read_body(request))
    resolved = await request.app[RESOLVER].chat(body)
    return json_response(
        RenderedChat(
            request_id=_new_id(),
            model=resolved.target.name,
            token_ids=resolved.prompt.tokens.tolist(),
            prompt=resolved.text,
            lora_name=resolved.target.lora_name,
            cache_salt=body.cache_salt,
        ),
        headers=origin_headers(*resolved.origin),
    )


class _Answer(msgspec.Struct, frozen=True):
    """An answer, which is sent whole or in chunks."""

    id: str
    created: int
    model: str
    content: str
    usage: Usage
    pod_scores: Scores

    def completion(self) -> Completion:
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
        """The chunks in OpenAI's order: role, content, finish reason, and the usage if requested."""
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


async def _answer(resolver: PromptResolver, resolved: ResolvedChat, scores: Scores) -> _Answer:
    content = f"Response based on template: {resolved.text}..."
    prompt_tokens = len(resolved.prompt.tokens)
    completion_tokens = await resolver.tokens_of(resolved.target.model, content)
    usage = Usage(prompt_tokens, completion_tokens, prompt_tokens + completion_tokens)
    return _Answer(_new_id(), int(time.time()), resolved.target.name, content, usage, scores)


async def _stream(
    request: web.Request, answer: _Answer, headers: Mapping[str, str], *, include_usage: bool
) -> web.StreamResponse:
    reservation_of(request).charge(len(answer.content))
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-cache",
            "Server": "kvcache",
            **headers,
        }
    )
    await response.prepare(request)
    with waiting_for_client(request, partial(_abort, request)):
        for chunk in answer.chunks(include_usage=include_usage):
            await response.write(b"data: " + _encoder.encode(chunk) + b"\n\n")
        await response.write_eof(b"data: [DONE]\n\n")
    return response


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _new_id() -> str:
    return f"chatcmpl-{uuid4().hex}"
