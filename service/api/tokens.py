"""POST /tokenize and /detokenize, in vLLM's shape: what anyone can compare with their engine."""

from __future__ import annotations

import msgspec
from aiohttp import web

from service.api.errors import Refusal
from service.api.prompts import ask_chat, check_size, target_of
from service.api.requests import (
    DetokenizeRequest,
    Either,
    TokenizeChatRequest,
    TokenizeRequest,
    decode,
    read,
)
from service.api.resources import MODELS, SETTINGS
from service.api.responses import Detokenized, Tokenized, json_answer
from service.index.base import TokenIds
from service.prompts.models.model import Model

_either = msgspec.json.Decoder(Either)
_text = msgspec.json.Decoder(TokenizeRequest)
_chat = msgspec.json.Decoder(TokenizeChatRequest)
_tokens = msgspec.json.Decoder(DetokenizeRequest)


async def tokenize(request: web.Request) -> web.Response:
    """The tokens of a text or of a chat."""
    app, body = request.app, await read(request)
    if decode(_either, body).is_chat():
        chat = decode(_chat, body)
        asked = await ask_chat(app, chat)
        return json_answer(await _tokenized(asked.model, asked.prompt.tokens, strings=chat.return_token_strs))
    plain = decode(_text, body)
    check_size(app[SETTINGS], [plain.prompt])
    model = await app[MODELS].get(target_of(app, plain.model).model)
    tokens = await model.tokenize(plain.prompt, add_special_tokens=plain.add_special_tokens)
    return json_answer(await _tokenized(model, tokens, strings=plain.return_token_strs))


async def detokenize(request: web.Request) -> web.Response:
    """The text of tokens."""
    app = request.app
    body = decode(_tokens, await read(request))
    model = await app[MODELS].get(target_of(app, body.model).model)
    limit = app[SETTINGS].max_prompt_tokens
    if len(body.tokens) > limit:
        raise Refusal(
            413, f"`tokens` holds {len(body.tokens)}, the limit is {limit} (MAX_PROMPT_TOKENS)", param="tokens"
        )
    spelled = await model.token_strings(body.tokens)
    if None in spelled:
        position = spelled.index(None)
        message = f"`tokens[{position}]` is {body.tokens[position]}, which is no token of {model.name}"
        raise Refusal(400, message, param=f"tokens[{position}]")
    return json_answer(Detokenized(await model.detokenize(body.tokens)))


async def _tokenized(model: Model, tokens: TokenIds, *, strings: bool | None) -> Tokenized:
    token_strs = await model.token_strings(tokens) if strings else None
    return Tokenized(len(tokens), model.max_model_length, tokens.tolist(), token_strs)
