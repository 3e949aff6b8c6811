"""POST /score, /score_completions and /explain: how much of a prompt each pod holds."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import msgspec
from aiohttp import web

from service.api.at_once import Headers, result_at_once
from service.api.body import read_body
from service.api.candidates import foreseen
from service.api.errors import ApiError
from service.api.forwarding import request_with_prompt
from service.api.rendering import Origin
from service.api.requests import (
    ChatRequest,
    ExplainOptions,
    Messages,
    ScoreRequest,
    decode,
    decode_prompt_or_chat,
    decode_token_ids,
)
from service.api.resolver import ResolvedChat, ResolvedPrompt
from service.api.resources import CHAT_DECODER, FLEET, RESOLVER, ROUTER, SCORER
from service.api.responses import (
    ByTier,
    Explanation,
    Match,
    Placed,
    ScoredChat,
    json_body,
    json_response,
    origin_headers,
)
from service.index.base import Prompt, RankMatch
from service.index.scoring import Scorer, Scores, best, sum_scores

_chat = msgspec.json.Decoder(ChatRequest)
_explain = msgspec.json.Decoder(ExplainOptions)
_messages = msgspec.json.Decoder(Messages)
_SHORT_TEXT: Final = 2_048
"""Bytes of a body whose texts are tokenized in one step, whatever is cached: prompts/tokens/threaded.py."""


async def score(request: web.Request) -> web.Response:
    """Scores the pods for a prompt or a chat; the scores of several prompts add up."""
    wanted = decode_prompt_or_chat(await read_body(request), request.app[CHAT_DECODER])
    if isinstance(wanted, ChatRequest):
        chat = await request.app[RESOLVER].chat(wanted, with_text=False)
        scores = _scores(request.app, chat.prompt, wanted, _most(wanted))
        return json_response(scores, headers=origin_headers(*chat.origin))
    origin, scores = await _scored(request.app, wanted)
    return json_response(scores, headers=origin_headers(*origin))


def score_at_once(app: web.Application, _: Mapping[str, str], body: bytes) -> tuple[Headers, bytes] | None:
    """As `score`, of a plain list of token ids, or of short prompts whose model is at hand."""
    wanted = decode_token_ids(body)
    if wanted is None or wanted.truncation is not None:
        if len(body) > _SHORT_TEXT or b"messages" in body:
            return None
        prompts = decode_prompt_or_chat(body, app[CHAT_DECODER])
        if isinstance(prompts, ChatRequest) or not app[RESOLVER].is_at_hand(prompts.model):
            return None
        wanted = prompts
    scored = result_at_once(_scored(app, wanted))
    return None if scored is None else (_named(scored[0]), json_body(scored[1]))


async def _scored(app: web.Application, wanted: ScoreRequest) -> tuple[Origin, Scores]:
    resolved = await app[RESOLVER].prompts(wanted)
    most = _most(wanted)
    each = most if len(resolved) == 1 else sys.maxsize
    return resolved[0].origin, sum_scores([_scores(app, one.prompt, wanted, each) for one in resolved], most)


@lru_cache(maxsize=64)
def _named(origin: Origin) -> Headers:
    return tuple(origin_headers(*origin).items())


async def score_completions(request: web.Request) -> web.Response:
    """Scores the pods for a chat, and returns the rendered text."""
    body = await read_body(request)
    wanted = decode(_chat, body)
    resolved = await request.app[RESOLVER].chat(wanted)
    scores = _scores(request.app, resolved.prompt, wanted, _most(wanted))
    messages = decode(_messages, body).messages
    scored = ScoredChat(scores, resolved.target.name, resolved.text, messages)
    return json_response(scored, headers=origin_headers(*resolved.origin))


async def explain(request: web.Request) -> web.Response:
    """Lists every rank that holds a prefix of a prompt or chat: how much, on which tiers, and how far into the text.

    With `choice`, also the rank that the request would be routed to, and what it would cost on each.
    """
    resolver, scorer = request.app[RESOLVER], request.app[SCORER]
    body = await read_body(request)
    wanted = decode_prompt_or_chat(body, request.app[CHAT_DECODER])
    fleet = request.app[FLEET]
    shows_choice = decode(_explain, body).choice and len(fleet) > 0
    if isinstance(wanted, ChatRequest):
        resolved: ResolvedPrompt | ResolvedChat = await resolver.chat(wanted)
    else:
        prompts = await resolver.prompts(wanted)
        if len(prompts) > 1:
            raise ApiError(400, "`prompt` must be a single prompt here", param="prompt")
        resolved = prompts[0]
    choice = None
    if shows_choice:
        question = (await request_with_prompt(request, body)).question
        choice = foreseen(request.app[ROUTER], fleet, question)
    matches = scorer.matches(resolved.prompt)
    placed = request.app[ROUTER].placed(resolved.prompt, matches) if wanted.placements else []
    characters = {tokens: await _covered_characters(resolved, tokens) for tokens in {m.tokens for m in matches}}
    explained = [_explained(scorer, resolved.prompt, match, characters[match.tokens]) for match in matches]
    explained.sort(key=lambda match: (-match.score, match.pod, match.rank))
    return json_response(
        Explanation(
            model=resolved.target.model,
            lora_name=resolved.target.lora_name,
            tokens=len(resolved.prompt.tokens),
            text=resolved.text,
            renderer=resolved.origin.renderer,
            parity=resolved.origin.parity,
            known_tokens=resolved.origin.known,
            pod_scores=scorer.scores_of([*matches, *placed]),
            matches=explained,
            placements=[Placed(one.rank.pod, one.rank.number, one.tokens) for one in placed],
            choice=choice,
        ),
        headers=origin_headers(*resolved.origin),
    )


def _most(wanted: ChatRequest | ScoreRequest) -> int:
    """How many scores a request asks for."""
    return sys.maxsize if wanted.top is None else wanted.top


def _scores(app: web.Application, prompt: Prompt, wanted: ChatRequest | ScoreRequest, most: int) -> Scores:
    scorer = app[SCORER]
    if not wanted.placements:
        return scorer.scores(prompt, most)
    matches = scorer.matches(prompt)
    return best(scorer.scores_of([*matches, *app[ROUTER].placed(prompt, matches)]), most)


async def _covered_characters(resolved: ResolvedPrompt | ResolvedChat, tokens: int) -> int | None:
    if resolved.model is None or resolved.text is None:
        return None
    return await resolved.model.reach(resolved.text, resolved.prompt.tokens, tokens)


def _explained(scorer: Scorer, prompt: Prompt, match: RankMatch, characters: int | None) -> Match:
    return Match(
        pod=match.rank.pod,
        rank=match.rank.number,
        score=next(iter((scorer.scores_of([match]) or {}).values()), 0),
        block_size=match.block_size,
        blocks=len(prompt.tokens) // match.block_size,
        matched_blocks=match.tokens // match.block_size,
        matched_tokens=match.tokens,
        matched_tokens_by_tier=ByTier.of(match.tokens_by_tier),
        matched_characters=characters,
    )
