"""From a request to what the index is asked: which model and LoRA, which tokens, for which pods."""

from __future__ import annotations

from array import array
from typing import NamedTuple, TypeAlias, cast

import msgspec
from aiohttp import web

from service.api.errors import Refusal
from service.api.requests import ChatRequest, PromptValue, ScoreRequest
from service.api.resources import INDEX, MODELS, SETTINGS
from service.contract.settings import Settings
from service.index.base import Prompt, TokenIds
from service.prompts.chat import Chat
from service.prompts.models.model import Model
from service.prompts.templates.conversation import are_plain

_PLAIN_FIELDS = 2
"""Of a message that has no lists: its role and text."""

Part: TypeAlias = "str | TokenIds"
"""One prompt as it came in."""


class Target(NamedTuple):
    """What a request is for; `name` is what it calls the model, and what the answer calls it."""

    name: str
    model: str
    lora_name: str | None


class Asked(msgspec.Struct, frozen=True):
    """One prompt of a request, ready for the index; without text and model when it came as token ids."""

    target: Target
    prompt: Prompt
    text: str | None = None
    model: Model | None = None


class AskedChat(msgspec.Struct, frozen=True):
    """A rendered chat, ready for the index."""

    target: Target
    prompt: Prompt
    text: str
    model: Model


def target_of(app: web.Application, name: str | None, lora_name: str | None = None) -> Target:
    """Resolves a model name, which may be that of a LoRA that an engine announced; raises Refusal 400."""
    named = name or app[SETTINGS].model_name
    base = app[INDEX].lora_model(named)
    if base is None:
        return Target(named, named, lora_name)
    if lora_name not in (None, named):
        raise Refusal(400, f"`model` is the LoRA {named!r}, `lora_name` is another one", param="lora_name")
    return Target(named, base, named)


async def ask_chat(app: web.Application, body: ChatRequest) -> AskedChat:
    """Renders and tokenizes a chat as the engine would."""
    _check_number(app[SETTINGS], body)
    target = target_of(app, body.model, body.lora_name)
    model = await app[MODELS].get(target.model)
    rendered = await model.render(body)
    prompt = Prompt(target.model, rendered.tokens, target.lora_name, body.cache_salt, body.pods)
    return AskedChat(target, prompt, rendered.text, model)


def _check_number(settings: Settings, body: ChatRequest) -> None:
    """Raises Refusal 413 for a chat of more pieces than are gone through while others wait."""
    pieces = 0
    for message in () if are_plain(body.messages) else body.messages:
        if type(message.get("content")) is not str or len(message) > _PLAIN_FIELDS:
            lists = (message.get(field) for field in ("content", "tool_calls", "tools"))
            pieces += sum(len(one) for one in lists if isinstance(one, list))
    for number, what, param in (
        (len(body.messages), "messages", "messages"),
        (pieces, "content parts and tool calls", "messages"),
        (len(body.tools or ()), "tools", "tools"),
        (len(body.chat_template_kwargs or ()), "variables", "chat_template_kwargs"),
    ):
        if number > settings.max_messages:
            limit = f"{settings.max_messages} (MAX_MESSAGES)"
            raise Refusal(413, f"`{param}` holds {number} {what}, the limit is {limit}", param=param)


async def ask_plain(app: web.Application, body: ScoreRequest) -> list[Asked]:
    """Tokenizes the prompts of a request; for token ids no model is needed."""
    target = target_of(app, body.model, body.lora_name)
    parts = parts_of(body.prompt)
    check_size(app[SETTINGS], parts)
    asked = []
    for part in parts:
        if isinstance(part, str):
            text, model = part, await app[MODELS].get(target.model)
            tokens = await _tokenized(model, part, body)
        else:
            text, model = None, None
            tokens = part if body.truncate_prompt_tokens is None else await _cut(app, target, part, body)
        prompt = Prompt(target.model, tokens, target.lora_name, body.cache_salt, body.pods)
        asked.append(Asked(target, prompt, text, model))
    return asked


async def _tokenized(model: Model, text: str, body: ScoreRequest) -> TokenIds:
    if body.truncate_prompt_tokens is None:
        return await model.tokenize(text, add_special_tokens=body.add_special_tokens)
    limits = Chat(
        messages=[],
        add_special_tokens=body.add_special_tokens,
        truncate_prompt_tokens=body.truncate_prompt_tokens,
        truncation_side=body.truncation_side,
    )
    return await model.tokenize_truncated(text, limits)


async def _cut(app: web.Application, target: Target, tokens: TokenIds, body: ScoreRequest) -> TokenIds:
    """Token ids as `TokenizeParams._token_truncation` of vLLM 0.33 cuts them."""
    keep = body.truncate_prompt_tokens
    if keep == -1:
        longest = (await app[MODELS].get(target.model)).max_model_length
        keep = None if longest is None else longest - 1
    if keep is None or keep >= len(tokens):
        return tokens
    return tokens[:keep] if body.truncation_side == "right" else tokens[len(tokens) - keep :]


def parts_of(value: PromptValue | TokenIds) -> list[Part]:
    """The prompts of a request: text, token ids, or a list of one kind of them, as /v1/completions takes."""
    if isinstance(value, str | array):
        return [value]
    if isinstance(value[0], int):
        return [_ids(value)]
    parts = [_ids(part) if isinstance(part, list) else part for part in value]
    if len(set(map(type, parts))) > 1:
        raise _mixed()
    return cast("list[Part]", parts)


def check_size(settings: Settings, parts: list[Part]) -> None:
    """Raises Refusal 413 when a request asks too much, 400 when it asks nothing."""
    if len(parts) > settings.max_prompts:
        message = f"`prompt` holds {len(parts)} prompts, the limit is {settings.max_prompts} (MAX_PROMPTS)"
        raise Refusal(413, message, param="prompt")
    characters = sum(len(part) for part in parts if isinstance(part, str))
    if characters > settings.max_prompt_characters:
        limit = f"{settings.max_prompt_characters} (MAX_PROMPT_CHARACTERS)"
        raise Refusal(413, f"`prompt` has {characters} characters, the limit is {limit}", param="prompt")
    tokens = sum(len(part) for part in parts if not isinstance(part, str))
    if tokens > settings.max_prompt_tokens:
        limit = f"{settings.max_prompt_tokens} (MAX_PROMPT_TOKENS)"
        raise Refusal(413, f"`prompt` has {tokens} token ids, the limit is {limit}", param="prompt")
    if not all(len(part) for part in parts if not isinstance(part, str)):
        raise Refusal(400, "`prompt` must not hold an empty list", param="prompt")


def _ids(ids: list[str | int | list[int]] | list[int]) -> TokenIds:
    try:
        return array("I", cast("list[int]", ids))
    except TypeError:
        raise _mixed() from None


def _mixed() -> Refusal:
    return Refusal(400, "`prompt` mixes kinds: give text, token ids, or a list of either", param="prompt")
