"""Bodies in: what a client may send, decoded and checked in one pass."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta, Raw, Struct

from service.api.chat_bodies import ChatBodies
from service.api.errors import Refusal
from service.api.resources import SETTINGS
from service.api.validation import refusal_of_body
from service.contract.settings import Settings
from service.native.backend import prompt_ids
from service.prompts.chat import Chat

Body = TypeVar("Body")

_NOTHING = (b"", b"null")
_HEAD = 256
"""Bytes in which the name of a long prompt stands, if it does."""

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1024)]
TokenId: TypeAlias = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
PromptValue: TypeAlias = str | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1)]
ModelName: TypeAlias = Annotated[
    Annotated[str, Meta(max_length=1024)] | None,
    Meta(description="a model, or a LoRA that an engine announced; MODEL_NAME if left out"),
]
LoraName: TypeAlias = Annotated[Name | None, Meta(description="the LoRA adapter that the request is for")]
CacheSalt: TypeAlias = Annotated[Name | None, Meta(description="what the engine salts the blocks of the prompt with")]
Pods: TypeAlias = Annotated[
    Annotated[list[str], Meta(min_length=1)] | None, Meta(description="only these pods; all if left out")
]


class ScoreRequest(Struct, kw_only=True):
    """A prompt to score."""

    prompt: Annotated[
        PromptValue,
        Meta(description="text or token ids; several of either count together, as one request of /v1/completions"),
    ]
    model: ModelName = None
    lora_name: LoraName = None
    cache_salt: CacheSalt = None
    pods: Pods = None
    add_special_tokens: bool = True
    """Whether text gets the special tokens that the tokenizer adds."""
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1)] | None = None
    """Tokens to keep; -1 keeps as many as the model takes."""
    truncation_side: Literal["left", "right"] | None = None
    """Where tokens are cut away; the left when not said."""


class StreamOptions(Struct, kw_only=True):
    """OpenAI's options of a streamed answer."""

    include_usage: bool | None = None


class ChatRequest(Chat, kw_only=True):
    """An OpenAI chat request; fields that do not change the prompt are accepted and ignored."""

    model: ModelName = None
    lora_name: LoraName = None
    cache_salt: CacheSalt = None
    pods: Pods = None


class CompletionRequest(ChatRequest, kw_only=True):
    """An OpenAI chat request to be answered."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None


class TokenizeRequest(Struct, kw_only=True):
    """Text to tokenize."""

    prompt: str
    model: ModelName = None
    add_special_tokens: bool = True
    return_token_strs: bool | None = None


class TokenizeChatRequest(ChatRequest, kw_only=True):
    """A chat to tokenize."""

    return_token_strs: bool | None = None


class DetokenizeRequest(Struct, kw_only=True):
    """Tokens to turn into text."""

    tokens: list[TokenId]
    model: ModelName = None


class Messages(Struct):
    """The messages of a chat, as they were sent."""

    messages: Raw


class Either(Struct):
    """Tells a chat from a plain prompt."""

    prompt: Raw = Raw()
    messages: Raw = Raw()

    def is_chat(self) -> bool:
        """Raises Refusal 400 for a body that is both."""
        chat, plain = (bytes(value) not in _NOTHING for value in (self.messages, self.prompt))
        if chat and plain:
            raise Refusal(400, "give `prompt` or `messages`, not both", param="prompt")
        return chat


class _PerhapsChat(ChatRequest, kw_only=True):
    """A chat, if it is one."""

    messages: list[dict[str, Any]] = msgspec.field(default_factory=list)
    prompt: Raw = Raw()


def chat_bodies(capacity: int) -> ChatBodies[Any]:
    """Where `decode_either` keeps chats that it decoded; `capacity` in bytes, 0 keeps nothing."""
    return ChatBodies(_perhaps_chat.decode, capacity)


def decode_either(body: bytes, chats: ChatBodies[Any]) -> ChatRequest | ScoreRequest:
    """Decodes a chat or plain prompts to score, whichever it is. Raises Refusal 400, also for what is both.

    Each common form is gone through once: to tell first what a body is takes as long again.
    """
    if b'"prompt"' in body[:_HEAD] and (request := _many_ids(body)) is not None:
        return request
    if b"messages" in body:
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            chat: _PerhapsChat = chats.decode(body)
            if chat.messages and bytes(chat.prompt) in _NOTHING:
                return chat
        if decode(_either, body).is_chat():
            return decode(_chat, body)
    return decode(_score, body)


def _many_ids(body: bytes) -> ScoreRequest | None:
    """Decodes a prompt of token ids where they are plainly there; None for all else."""
    found = prompt_ids(body)
    if found is None:
        return None
    tokens, start, end = found
    rest = b"%b[0]%b" % (body[:start], body[end:])
    if b"messages" in rest:
        return None
    request = decode(_score, rest)
    request.prompt = tokens  # type: ignore[assignment] # in its packed form, which no body has
    return request


async def read(request: web.Request) -> bytes:
    """The whole body; raises Refusal 408 when it does not come in time, 413 when it is too large."""
    settings = request.app[SETTINGS]
    if request.content.is_eof():  # all of it is here already: no clock is needed
        body = request.content.read_nowait()
        if len(body) > settings.max_body_bytes:
            raise _too_large(settings)
        return body
    try:
        async with asyncio.timeout(settings.body_timeout):
            return await request.read()
    except TimeoutError:
        raise Refusal(408, f"the body did not come within {settings.body_timeout:g} s") from None
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(settings) from None


def _too_large(settings: Settings) -> Refusal:
    return Refusal(413, f"the body is larger than {settings.max_body_bytes} bytes (MAX_BODY_BYTES)")


def decode(decoder: msgspec.json.Decoder[Body], body: bytes) -> Body:
    """Decodes a body; raises Refusal 400 with the field at fault."""
    if not body:
        raise Refusal(400, "the request has no body; send a JSON object", code="invalid_json")
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise refusal_of_body(error) from None


_chat = msgspec.json.Decoder(ChatRequest)
_either = msgspec.json.Decoder(Either)
_perhaps_chat = msgspec.json.Decoder(_PerhapsChat)
_score = msgspec.json.Decoder(ScoreRequest)
