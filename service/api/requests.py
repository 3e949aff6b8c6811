"""Request bodies: their types, decoding and checks, in one pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from service.api import anthropic, responses_input
from service.api.chat_decoder import ChatDecoder
from service.api.errors import ApiError
from service.api.validation import body_error
from service.native.backend import prompt_ids
from service.prompts.chat import Chat
from service.prompts.templates.conversation import are_text_only
from service.prompts.truncation import Side, Truncation

Body = TypeVar("Body")
ChatT = TypeVar("ChatT", bound="ChatRequest")

_ABSENT = (b"", b"null")
_BOM = b"\xef\xbb\xbf"
_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_HEAD = 256
"""Bytes at the start of a body that are searched for the field name of a long prompt."""

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=1024)]
TokenId: TypeAlias = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
PromptValue: TypeAlias = str | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1)]
ModelName: TypeAlias = Annotated[
    Annotated[str, Meta(max_length=1024)] | None,
    Meta(description="a model, or a LoRA that an engine announced; default: MODEL_NAME"),
]
LoraName: TypeAlias = Annotated[Name | None, Meta(description="the LoRA adapter of the request")]
CacheSalt: TypeAlias = Annotated[Name | None, Meta(description="the salt that the engine hashes into the first block")]
Pods: TypeAlias = Annotated[
    Annotated[list[Name], Meta(min_length=1, max_length=10_000)] | None,
    Meta(description="score only these pods; default: all"),
]
Top: TypeAlias = Annotated[
    Annotated[int, Meta(ge=1)] | None,
    Meta(description="give only the scores of the best pods, so many at most; default: all"),
]
ShowsPlacements: TypeAlias = Annotated[
    bool, Meta(description="count also blocks that pods will hold because requests were sent there: placements")
]
PromptLogprobs: TypeAlias = Annotated[
    int | bool | None, Meta(description="if given, also 0, the engine skips its prefix cache, and nobody has a score")
]


class ScoreRequest(Struct, kw_only=True):
    """A prompt to score."""

    prompt: Annotated[
        PromptValue,
        Meta(description="text or token ids, or a list of one of them, as in /v1/completions: the scores add up"),
    ]
    model: ModelName = None
    lora_name: LoraName = None
    cache_salt: CacheSalt = None
    pods: Pods = None
    top: Top = None
    placements: ShowsPlacements = False
    add_special_tokens: Annotated[bool, Meta(description="add the tokenizer's special tokens to text")] = True
    truncate_prompt_tokens: Annotated[
        Annotated[int, Meta(ge=-1)] | None,
        Meta(description="number of tokens to keep; -1 keeps as many as the model takes"),
    ] = None
    truncation_side: Annotated[Side | None, Meta(description="the side that is cut off; default: left")] = None
    features: Annotated[
        dict[str, Any] | None,
        Meta(description="media among token ids, as vLLM's render endpoints give them: `mm_hashes`, `mm_placeholders`"),
    ] = None
    prompt_logprobs: PromptLogprobs = None
    prompt_logprob_token_ids: Annotated[list[TokenId] | None, Meta(description="as prompt_logprobs")] = None
    suffix: Annotated[str | None, Meta(description="refused, as vLLM refuses it")] = None
    prompt_embeds: Annotated[
        str | list[str] | None, Meta(description="refused: only the engine knows their tokens")
    ] = None
    echo: Annotated[bool | None, Meta(description="with logprobs as prompt_logprobs")] = None
    logprobs: int | bool | None = None

    @property
    def skips_cache(self) -> bool:
        """Whether vLLM skips the cache, because it has to compute the log probabilities of the prompt."""
        echoed = bool(self.echo) and self.logprobs is not None
        return echoed or self.prompt_logprobs is not None or self.prompt_logprob_token_ids is not None

    @property
    def truncation(self) -> Truncation | None:
        """How the prompt is truncated; None if it is not truncated."""
        keep = self.truncate_prompt_tokens
        return None if keep is None else Truncation(keep, self.truncation_side)


class StreamOptions(Struct, kw_only=True):
    """OpenAI's options of a streamed response."""

    include_usage: bool | None = None


class ChatRequest(Chat, kw_only=True):
    """An OpenAI chat request; fields that do not change the prompt are accepted and ignored."""

    model: ModelName = None
    lora_name: LoraName = None
    cache_salt: CacheSalt = None
    pods: Pods = None
    top: Top = None
    placements: ShowsPlacements = False
    prompt_logprobs: PromptLogprobs = None
    prompt_logprob_token_ids: Annotated[list[TokenId] | None, Meta(description="as prompt_logprobs")] = None

    @property
    def skips_cache(self) -> bool:
        """Whether vLLM skips the cache, because it has to compute the log probabilities of the prompt."""
        return self.prompt_logprobs is not None or self.prompt_logprob_token_ids is not None


class ResponsesRequest(ChatRequest, kw_only=True):
    """A request of /v1/responses as a chat."""


class CompletionRequest(ChatRequest, kw_only=True):
    """An OpenAI chat request for a completion."""

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


Reserve: TypeAlias = Annotated[bool, Meta(description="reserve the rank, until the reservation is ended")]
Lifetime: TypeAlias = Annotated[
    float, Meta(gt=0, le=3600, description="seconds after which a reservation that nobody ended expires")
]


class SelectOptions(Struct, kw_only=True):
    """Options of POST /select, beside a prompt or a chat."""

    reserve: Reserve = False
    seconds: Lifetime = 600.0
    pods: Pods = None


class SelectPrompt(ScoreRequest, kw_only=True):
    """A prompt of POST /select."""

    reserve: Reserve = False
    seconds: Lifetime = 600.0


class SelectChat(ChatRequest, kw_only=True):
    """A chat of POST /select."""

    reserve: Reserve = False
    seconds: Lifetime = 600.0


ShowsChoice: TypeAlias = Annotated[
    bool, Meta(description="show the rank that the request would be routed to, without a reservation")
]


class ExplainOptions(Struct):
    """The fields of POST /explain besides those of a prompt or a chat."""

    choice: ShowsChoice = False


class ExplainPrompt(ScoreRequest, kw_only=True):
    """A prompt of POST /explain."""

    choice: ShowsChoice = False


class ExplainChat(ChatRequest, kw_only=True):
    """A chat of POST /explain."""

    choice: ShowsChoice = False


Text: TypeAlias = Annotated[str, Meta(max_length=1024)]
InstanceId: TypeAlias = Annotated[Text | int, Meta(description="the name of the pod")]
Tenant: TypeAlias = Annotated[
    Text | None, Meta(description="sees the instances that it registered, and pods that nobody registered")
]


class TokenQuery(Struct, kw_only=True):
    """A prompt of POST /query."""

    token_ids: list[TokenId]
    lora_id: Annotated[int | None, Meta(description="refused; give `lora_name`")] = None
    model: Text | None = None
    model_name: Text | None = None
    lora_name: Text | None = None
    cache_salt: Text | None = None
    tenant_id: Tenant = None
    routing_group: Tenant = None
    instance_id: InstanceId | None = None


class PackedTokenQuery(TokenQuery, kw_only=True):
    """A prompt of POST /query in msgpack: its tokens are 32-bit integers, little-endian."""

    token_ids: bytes  # type: ignore[assignment] # another form of the same


class HashQuery(Struct, kw_only=True):
    """The hashes of POST /query_by_hash, under one of three names."""

    seq_hashes: list[int] = msgspec.field(default_factory=list)
    block_hashes: list[int] = msgspec.field(default_factory=list)
    block_hash: list[int] = msgspec.field(default_factory=list)
    model: Text | None = None
    model_name: Text | None = None
    cache_salt: Text | None = None
    tenant_id: Tenant = None
    routing_group: Tenant = None
    instance_id: InstanceId | None = None


class Registration(Struct, kw_only=True):
    """A publisher of events for POST /register."""

    instance_id: InstanceId
    endpoint: Annotated[Name, Meta(description="ZeroMQ address of its events")]
    replay_endpoint: Text | None = None
    modelname: Text | None = None
    model_name: Text | None = None
    dp_rank: Annotated[int, Meta(ge=0)] = 0
    tenant_id: Tenant = None
    routing_group: Tenant = None


class Unregistration(Struct, kw_only=True):
    """A publisher of events for POST /unregister; without `dp_rank` all its ranks, without tenant that of any."""

    instance_id: InstanceId
    tenant_id: Tenant = None
    routing_group: Tenant = None
    dp_rank: Annotated[int, Meta(ge=0)] | None = None


class NewPod(Struct, kw_only=True, forbid_unknown_fields=True):
    """A pod to forward requests to."""

    url: Annotated[Text, Meta(description="such as http://10.0.0.7:8000")]
    name: Annotated[Name | None, Meta(description="default: host and port of the URL")] = None
    events: Annotated[Text | None, Meta(description="ZeroMQ address of its events; default: what the engine says")] = (
        None
    )
    replay: Annotated[Text | None, Meta(description="ZeroMQ address of its replay socket")] = None
    model: Annotated[Text | None, Meta(description="name of its model; default: what the engine says")] = None


class PodChange(Struct, kw_only=True, forbid_unknown_fields=True):
    """A change of a pod."""

    draining: Annotated[bool | None, Meta(description="no new requests; those in flight end")] = None
    weight: Annotated[
        Annotated[float, Meta(gt=0)] | None, Meta(description="share of requests, relative to other pods")
    ] = None


class RefreshRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """A model whose files may have changed."""

    model: ModelName = None


class Messages(Struct):
    """The messages of a chat, byte for byte."""

    messages: Raw


class PromptOrChat(Struct):
    """Distinguishes a chat, a prompt, and the input of /v1/responses."""

    prompt: Raw = Raw()
    messages: Raw = Raw()
    input: Raw = Raw()

    def is_response(self) -> bool:
        """Whether only `input` is given."""
        return bytes(self.input) not in _ABSENT and all(bytes(one) in _ABSENT for one in (self.messages, self.prompt))

    def is_chat(self) -> bool:
        """Raises ApiError 400 for a body with both."""
        chat, prompt = (bytes(value) not in _ABSENT for value in (self.messages, self.prompt))
        if chat and prompt:
            raise ApiError(400, "give `prompt` or `messages`, not both", param="prompt")
        return chat


class _MaybeChat(ChatRequest, kw_only=True):
    """A chat, if `messages` is not empty and `prompt` is absent, and maybe one of Anthropic's API."""

    messages: list[dict[str, Any]] = msgspec.field(default_factory=list)
    prompt: Raw = Raw()
    system: Raw = Raw()
    thinking: Raw = Raw()
    output_config: Raw = Raw()
    stop_sequences: Raw = Raw()
    around: bytes | None = None
    """All fields of the body but its messages, as bytes; never from the body itself. None if unknown."""

    def may_be_anthropic(self) -> bool:
        """Whether it has fields of Anthropic's API."""
        given = (self.system, self.thinking, self.output_config, self.stop_sequences)
        return any(map(bytes, given)) or (self.tools is not None and any("input_schema" in tool for tool in self.tools))


ChatBodyDecoder: TypeAlias = ChatDecoder[_MaybeChat]


def chat_body_decoder(capacity: int) -> ChatBodyDecoder:
    """The decoder for `decode_prompt_or_chat`; it caches up to `capacity` bytes of decoded chats."""
    return ChatDecoder(_maybe_chat.decode, capacity)


def decode_prompt_or_chat(
    body: bytes, chats: ChatBodyDecoder, *, of_anthropic: bool | None = None
) -> ChatRequest | ScoreRequest:
    """Decodes a chat or prompts to score. Raises ApiError 400, also for a body with both.

    Bodies of /v1/responses and of Anthropic's /v1/messages become chats. `of_anthropic` is whether the body is one of
    the latter; if it is None, the fields of the body tell. Common bodies are scanned once: determining the kind first
    would take as long as decoding.
    """
    if body[:3] == _BOM:
        body = body[3:]
    if (request := decode_token_ids(body)) is not None:
        return request
    if b"messages" in body:
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            chat, around = chats.decode(body)
            chat.around = around
            if chat.messages and bytes(chat.prompt) in _ABSENT and not _may_need_conversion(chat, of_anthropic):
                return chat
        if decode(_prompt_or_chat, body).is_chat():
            document: dict[str, Any] = decode(_any, body)
            if anthropic.is_anthropic(document) if of_anthropic is None else of_anthropic:
                return _converted(anthropic.chat_body, document, ChatRequest)
            return decode(_chat, body)
    if b'"input"' in body and decode(_prompt_or_chat, body).is_response():
        response: dict[str, Any] = decode(_any, body)
        return _converted(responses_input.chat_body, response, ResponsesRequest)
    return _scorable(decode(_score, body))


def _scorable(request: ScoreRequest) -> ScoreRequest:
    """The request, without fields that make another prompt of it. Raises ApiError 400."""
    if request.suffix is not None:
        raise ApiError(400, "`suffix` is not supported, as in vLLM", param="suffix")
    if request.prompt_embeds:
        raise ApiError(400, "`prompt_embeds` are not scored: only the engine knows their tokens", param="prompt_embeds")
    return request


def _may_need_conversion(chat: _MaybeChat, of_anthropic: bool | None) -> bool:
    """Whether a body may be one of Anthropic's API that is no chat as it is; a plain text is the same in both."""
    if of_anthropic is False:
        return False
    return chat.may_be_anthropic() or (of_anthropic is True and not are_text_only(chat.messages))


def around_messages(request: ChatRequest | ScoreRequest) -> bytes | None:
    """All fields of the body of a decoded request but its messages, as bytes; None if unknown."""
    return request.around if isinstance(request, _MaybeChat) else None


def _converted(
    chat_body: Callable[[Mapping[str, Any]], dict[str, Any]], body: Mapping[str, Any], kind: type[ChatT]
) -> ChatT:
    """The chat of a body of another API, which `chat_body` converts; raises ApiError 400."""
    try:
        return msgspec.convert(chat_body(body), kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise body_error(error) from None


def decode_token_ids(body: bytes) -> ScoreRequest | None:
    """Decodes a plain list of token ids, or a list of such lists; None for every other body. Raises ApiError 400."""
    if b'"prompt"' not in body[:_HEAD]:
        return None
    found = prompt_ids(body)
    if found is None:
        return None
    tokens, start, end = found
    rest = b"%b[0]%b" % (body[:start], body[end:])
    if b"messages" in rest:
        return None
    request = decode(_score, rest)
    request.prompt = tokens  # type: ignore[assignment] # arrays, which JSON cannot produce
    return _scorable(request)


def decode(decoder: msgspec.json.Decoder[Body] | msgspec.msgpack.Decoder[Body], body: bytes) -> Body:
    """Decodes a body; raises ApiError 400 that names the field at fault."""
    if not body:
        raise ApiError(400, "the request has no body; send a JSON object", code="invalid_json")
    try:
        return decoder.decode(body[3:] if body[:3] == _BOM else body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if isinstance(error, msgspec.ValidationError) or (lone := _LONE_SURROGATE.search(body)) is None:
            raise body_error(error) from None
        message = f"the body holds a lone surrogate, {lone[0].decode()}, at byte {lone.start()}"
        raise ApiError(400, message, code="invalid_json") from None


_chat = msgspec.json.Decoder(ChatRequest)
_prompt_or_chat = msgspec.json.Decoder(PromptOrChat)
_maybe_chat = msgspec.json.Decoder(_MaybeChat)
_score = msgspec.json.Decoder(ScoreRequest)
_any: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])
