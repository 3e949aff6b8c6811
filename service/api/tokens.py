"""POST /tokenize and /detokenize, in vLLM's form, to compare with an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from service.api.body import read_body
from service.api.errors import ApiError
from service.api.requests import DetokenizeRequest, PromptOrChat, TokenizeChatRequest, TokenizeRequest, decode
from service.api.resources import RESOLVER
from service.api.responses import Detokenized, Tokenized, json_response
from service.index.base import TokenIds

if TYPE_CHECKING:
    from service.prompts.models.model import Model

_prompt_or_chat = msgspec.json.Decoder(PromptOrChat)
_text = msgspec.json.Decoder(TokenizeRequest)
_chat = msgspec.json.Decoder(TokenizeChatRequest)
_tokens = msgspec.json.Decoder(DetokenizeRequest)


async def tokenize(request: web.Request) -> web.Response:
    """Returns the tokens of a text or of a chat."""
    resolver, body = request.app[RESOLVER], await read_body(request)
    if decode(_prompt_or_chat, body).is_chat():
        chat = decode(_chat, body)
        resolved = await resolver.chat(chat)
        return json_response(await _tokenized(resolved.model, resolved.prompt.tokens, strings=chat.return_token_strs))
    text = decode(_text, body)
    rendered = await resolver.text(text.model, text.prompt, add_special_tokens=text.add_special_tokens)
    return json_response(await _tokenized(rendered.model, rendered.tokens, strings=text.return_token_strs))


async def detokenize(request: web.Request) -> web.Response:
    """Returns the text of token ids."""
    resolver = request.app[RESOLVER]
    body = decode(_tokens, await read_body(request))
    resolver.limits.check_tokens("tokens", len(body.tokens))
    model = await resolver.model(body.model)
    strings = await model.token_strings(body.tokens)
    if None in strings:
        position = strings.index(None)
        message = f"`tokens[{position}]` is {body.tokens[position]}, which is not a token of {model.name}"
        raise ApiError(400, message, param=f"tokens[{position}]")
    return json_response(Detokenized(await model.detokenize(body.tokens)))


async def _tokenized(model: Model | None, tokens: TokenIds, *, strings: bool | None) -> Tokenized:
    """The answer; without a model, which only its engine knows, there are no strings of tokens."""
    if model is None:
        return Tokenized(len(tokens), None, tokens.tolist())
    token_strs = await model.token_strings(tokens) if strings else None
    return Tokenized(len(tokens), model.max_model_length, tokens.tolist(), token_strs)
