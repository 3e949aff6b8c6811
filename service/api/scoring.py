"""POST /score, /score_completions and /explain: how much of a prompt each pod already has."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from aiohttp import web

from service.api.errors import Refusal
from service.api.prompts import Asked, AskedChat, ask_chat, ask_plain
from service.api.requests import ChatRequest, Messages, decode, decode_either, read
from service.api.resources import CHAT_BODIES, INDEX, SETTINGS
from service.api.responses import ByTier, Explanation, Match, ScoredChat, Scores, json_answer
from service.index.base import Prompt, RankMatch
from service.index.scoring import pod_scores

_chat = msgspec.json.Decoder(ChatRequest)
_messages = msgspec.json.Decoder(Messages)


async def score(request: web.Request) -> web.Response:
    """The scores of a prompt or chat; several prompts of one request add up."""
    app, body = request.app, await read(request)
    wanted = decode_either(body, app[CHAT_BODIES])
    if isinstance(wanted, ChatRequest):
        return json_answer(scores(app, app[INDEX].match((await ask_chat(app, wanted)).prompt)))
    asked = await ask_plain(app, wanted)
    return json_answer(added([scores(app, app[INDEX].match(one.prompt)) for one in asked]))


async def score_completions(request: web.Request) -> web.Response:
    """The scores of a chat, with the text that they are of."""
    app, body = request.app, await read(request)
    asked = await ask_chat(app, decode(_chat, body))
    found = scores(app, app[INDEX].match(asked.prompt))
    return json_answer(ScoredChat(found, asked.target.name, asked.text, decode(_messages, body).messages))


async def explain(request: web.Request) -> web.Response:
    """Every rank that holds part of a prompt or chat: how much, on which tiers, and how far into the text."""
    app, body = request.app, await read(request)
    wanted = decode_either(body, app[CHAT_BODIES])
    if isinstance(wanted, ChatRequest):
        asked: Asked | AskedChat = await ask_chat(app, wanted)
    else:
        prompts = await ask_plain(app, wanted)
        if len(prompts) > 1:
            raise Refusal(400, "`prompt` must be a single prompt here", param="prompt")
        asked = prompts[0]
    matches = app[INDEX].match(asked.prompt)
    reach = {length: await _reach(asked, length) for length in {match.tokens for match in matches}}
    explained = [_explained(app, asked.prompt, match, reach[match.tokens]) for match in matches]
    explained.sort(key=lambda match: (-match.score, match.pod, match.rank))
    return json_answer(
        Explanation(
            model=asked.target.model,
            lora_name=asked.target.lora_name,
            tokens=len(asked.prompt.tokens),
            text=asked.text,
            pod_scores=scores(app, matches),
            matches=explained,
        )
    )


def scores(app: web.Application, matches: Iterable[RankMatch]) -> Scores:
    """The best rank of each pod, in the operator's unit and weights."""
    settings = app[SETTINGS]
    return pod_scores(matches, settings.tier_weights, settings.block_size)


def added(several: list[Scores]) -> Scores:
    """Scores of prompts that one pod would get together."""
    if len(several) == 1:
        return several[0]
    total: dict[str, int | float] = {}
    for one in several:
        for pod, score in (one or {}).items():
            total[pod] = total.get(pod, 0) + score
    ordered = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    return {pod: int(score) if score == int(score) else round(score, 9) for pod, score in ordered} or None


async def _reach(asked: Asked | AskedChat, tokens: int) -> int | None:
    if asked.model is None or asked.text is None:
        return None
    return await asked.model.reach(asked.text, asked.prompt.tokens, tokens)


def _explained(app: web.Application, prompt: Prompt, match: RankMatch, reach: int | None) -> Match:
    return Match(
        pod=match.rank.pod,
        rank=match.rank.number,
        score=next(iter((scores(app, [match]) or {}).values()), 0),
        block_size=match.block_size,
        blocks=len(prompt.tokens) // match.block_size,
        matched_blocks=match.tokens // match.block_size,
        matched_tokens=match.tokens,
        matched_tokens_by_tier=ByTier.of(match.tokens_by_tier),
        matched_characters=reach,
    )
