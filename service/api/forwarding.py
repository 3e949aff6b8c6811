"""Forwards requests under /v1/ to the pods of the fleet."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from aiohttp import web

from service.api.body import read_body
from service.api.errors import ApiError
from service.api.rendering import Origin
from service.api.requests import ChatRequest, ScoreRequest, around_messages, decode_prompt_or_chat
from service.api.resolver import PromptResolver, ResolvedChat, ResolvedPrompt
from service.api.resources import (
    ASKS_USAGE,
    CHAT_DECODER,
    FLEET,
    GATEWAY,
    RESOLVER,
    SCORER,
    SEND_TOKEN_IDS,
    SESSION_KEYS,
)
from service.fleet.parity import Verdict
from service.gateway.client_request import ClientRequest, TokenOrigin
from service.gateway.retries import BadEngine, NoModel, NoPod
from service.index.base import Prompt
from service.prompts.errors import ModelNotFound, ModelUnavailable, PromptError
from service.prompts.renderers.base import ENGINE
from service.routing.affinity import ends_of
from service.routing.question import Question
from service.tracing.base import step

_WITH_USAGE_ON_REQUEST = frozenset(("/v1/chat/completions", "/v1/completions"))
"""Streams of these have a usage only if the request asks for it."""
_WITH_PROMPT = frozenset(("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"))

_OF_ANTHROPIC = {"/v1/messages": True, "/v1/chat/completions": False}
"""Whether a path takes bodies of Anthropic's API. Engines ignore its fields in chats; on other paths, fields tell."""


class _Named(msgspec.Struct):
    model: str | None = None
    stream: object = None


_SEVERAL = re.compile(rb'"(?:n|best_of)"\s*:\s*(?:[2-9]|\d\d)')
"""With several answers, vLLM counts what the last of them found of the first."""
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_named = msgspec.json.Decoder(_Named)


async def forward(request: web.Request) -> web.StreamResponse:
    """Forwards a request to the best pod and returns its answer; both are unchanged."""
    if not request.app[FLEET].receives_requests:
        raise ApiError(404, f"there is no endpoint {request.path}, and no pod to forward it to (PODS)")
    if ".." in request.path.split("/"):  # a proxy before the engine would leave /v1/
        raise ApiError(404, "a path with `..` is not forwarded")
    with step("receive"):
        body = await read_body(request)
    asked = await _client_request(request, body)
    try:
        return await request.app[GATEWAY].forward(asked)
    except NoModel as error:
        raise ApiError(404, str(error), param="model", code="model_not_found") from None
    except NoPod as error:
        raise ApiError(
            503, str(error), code="no_pod_available", headers={"Retry-After": str(error.retry_after)}
        ) from None
    except BadEngine as error:
        code = "engine_timeout" if error.timed_out else "engine_failed"
        raise ApiError(504 if error.timed_out else 502, str(error), code=code) from None


async def forward_get(request: web.Request) -> web.StreamResponse:
    """Forwards a GET to a pod, for example for a stored response."""
    return await forward(request)


async def forward_delete(request: web.Request) -> web.StreamResponse:
    """Forwards a DELETE to a pod, for example for a stored response."""
    return await forward(request)


async def forward_put(request: web.Request) -> web.StreamResponse:
    """Forwards a PUT to a pod."""
    return await forward(request)


async def forward_patch(request: web.Request) -> web.StreamResponse:
    """Forwards a PATCH to a pod."""
    return await forward(request)


async def forward_options(request: web.Request) -> web.StreamResponse:
    """Forwards an OPTIONS to a pod: browsers ask so what a page of another origin may send."""
    return await forward(request)


async def _client_request(request: web.Request, body: bytes) -> ClientRequest:
    """A request with what is known of its prompt. One that cannot be parsed here is left to the engine."""
    if not body:
        return ClientRequest(request, body, Question(tokens=0))
    if request.path in _WITH_PROMPT:
        try:
            return await request_with_prompt(request, body)
        except (ApiError, PromptError, ModelNotFound, ModelUnavailable):
            pass
    session = request.app[SESSION_KEYS].of(request.headers, ends_of(body))
    try:
        named = _named.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ClientRequest(request, body, Question(session=session))
    model = named.model or request.app[FLEET].meant_model(request.app[RESOLVER].default_model)
    question = Question(model=model, is_streamed=named.stream is True, session=session)
    return ClientRequest(request, body, question)


async def request_with_prompt(request: web.Request, body: bytes) -> ClientRequest:
    """A request with a prompt or a chat, and who holds its prompt. Raises the errors of the resolver."""
    resolver = request.app[RESOLVER]
    wanted = decode_prompt_or_chat(body, request.app[CHAT_DECODER], of_anthropic=_OF_ANTHROPIC.get(request.path))
    around = around_messages(wanted)
    ends = ends_of(around or body)
    if wanted.model is None:
        wanted = msgspec.structs.replace(wanted, model=request.app[FLEET].meant_model(resolver.default_model))
    prompts = await _prompts(resolver, wanted)
    question = Question(
        model=wanted.model,
        is_streamed=b'"stream"' in ends and _STREAM.search(ends) is not None,
        session=request.app[SESSION_KEYS].of(request.headers, ends),
    )
    if len(prompts) != 1:
        return ClientRequest(request, body, question)
    prompt, origin = prompts[0].prompt, prompts[0].origin
    shown = TokenOrigin(origin.renderer, origin.parity)
    if origin.parity == Verdict.DIFFERS:
        return ClientRequest(request, body, question, shown)
    is_judged = not prompt.skips_cache and origin.known is None and not _asks_several(ends)
    takes_options = request.path in _WITH_USAGE_ON_REQUEST
    with step("match"):
        matches = request.app[SCORER].matches_together(prompt)
    return ClientRequest(
        request,
        body,
        msgspec.structs.replace(question, tokens=len(prompt.tokens), prompt=prompt, matches=matches),
        shown,
        around,
        is_judged=is_judged,
        asks_usage=is_judged and takes_options and question.is_streamed and request.app[ASKS_USAGE],
        sends_tokens=request.app[SEND_TOKEN_IDS] and _is_proven(wanted, prompt, origin),
    )


def _asks_several(ends: bytes) -> bool:
    return (b'"n"' in ends or b'"best_of"' in ends) and _SEVERAL.search(ends) is not None


def _is_proven(wanted: ChatRequest | ScoreRequest, prompt: Prompt, origin: Origin) -> bool:
    """Whether comparisons have shown that the engine computes exactly these tokens."""
    if origin.parity is not Verdict.EQUAL or origin.renderer == ENGINE or origin.known is not None or prompt.media:
        return False
    if isinstance(wanted, ScoreRequest):  # an echo has the text of the prompt
        return isinstance(wanted.prompt, str) and not wanted.echo and wanted.truncation is None
    return wanted.truncate_prompt_tokens is None


async def _prompts(
    resolver: PromptResolver, wanted: ChatRequest | ScoreRequest
) -> Sequence[ResolvedPrompt | ResolvedChat]:
    if isinstance(wanted, ChatRequest):
        return [await resolver.chat(wanted, with_text=False)]
    return await resolver.prompts(wanted)
