"""Renders chats and texts with mistral-common, as vLLM 0.32 does for Mistral's own repositories.

Follows `tokenizers/mistral.py` and `renderers/mistral.py` of vLLM, and `MistralCommonBackend` of transformers 5.19. A
text never contains special tokens here, and begins with the beginning-of-text token, which tokenizer.json omits.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from service.index.base import TokenIds
from service.prompts.chat import Chat
from service.prompts.errors import BadModelFile, PromptError
from service.prompts.renderers.base import Rendered, RendererMissing
from service.prompts.templates.conversation import check_tool_choice, parse_tools
from service.prompts.tokens.token_cache import CachedChunk, TokenCache

_Json: TypeAlias = dict[str, Any]

_MAX_CALL_ID = 9
_FIRST_VERSION_WITH_EFFORT = 15


def mistral_tokenizer_file(folder: Path, *, always: bool = False) -> Path | None:
    """The tokenizer file if vLLM treats the repository as one of Mistral's own, or `always`; otherwise None.

    Mistral's own repositories have weights named consolidated*.safetensors; a folder without weights is treated as one.
    """
    files = sorted(folder.glob("tekken.json")) or sorted(folder.glob("tokenizer.model.v*"))
    is_theirs = any(folder.glob("consolidated*.safetensors")) or not any(folder.glob("*.safetensors"))
    return files[-1] if files and (is_theirs or always) else None


class MistralRenderer:
    """Renders for one model. Parts of chats are cached by their text."""

    name = "mistral"

    def __init__(self, tokenizer_file: Path, cache: TokenCache) -> None:
        """Raises RendererMissing and BadModelFile. Blocks while it loads the vocabulary."""
        try:
            from mistral_common.exceptions import MistralCommonException  # noqa: PLC0415 - an optional dependency
            from mistral_common.protocol.instruct import request  # noqa: PLC0415
            from mistral_common.protocol.instruct.validator import ValidationMode  # noqa: PLC0415
            from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy  # noqa: PLC0415
            from mistral_common.tokens.tokenizers.mistral import MistralTokenizer  # noqa: PLC0415
        except ImportError:
            raise RendererMissing("mistral-common") from None
        self._request = request.ChatCompletionRequest
        self._efforts = tuple(effort.value for effort in request.ReasoningEffort)
        self._error = MistralCommonException
        self._keep = SpecialTokenPolicy.KEEP
        try:
            self._mistral = MistralTokenizer.from_file(str(tokenizer_file), mode=ValidationMode.test)
        except Exception as error:  # the library raises many exception types
            raise BadModelFile(tokenizer_file, error) from None
        self._tokenizer = self._mistral.instruct_tokenizer.tokenizer
        version = int(str(self._tokenizer.version.value).rpartition("v")[2])
        self._takes_effort = version >= _FIRST_VERSION_WITH_EFFORT
        self._cache, self._root, self._text_root = cache, CachedChunk(), CachedChunk()
        self._encode_uncached: Callable[..., list[int]] = self._tokenizer.encode
        self._tokenizer.encode = self._encode_cached
        # The library decodes each chat to a text that nobody here reads.
        self._mistral.instruct_tokenizer.decode = lambda *_, **__: ""
        self._special_tokens: list[str] | None = None
        if (count := getattr(self._tokenizer, "num_special_tokens", None)) is not None:
            self._special_tokens = [self._tokenizer.id_to_piece(number) for number in range(count)]

    def render(self, chat: Chat) -> Rendered:
        """Returns the text and tokens of a chat; raises PromptError."""
        _check(chat, self._efforts)
        tools = parse_tools(chat.tools)
        check_tool_choice(chat.tool_choice, tools)
        messages = [_message(message) for message in chat.messages]
        try:
            request = self._request.from_openai(
                messages=messages,
                tools=tools,
                continue_final_message=chat.continue_final_message,
                **({"reasoning_effort": chat.reasoning_effort} if self._takes_effort else {}),
            )
            tokens = self._mistral.encode_chat_completion(request).tokens
        except Exception as error:  # the library raises many exception types
            raise PromptError(f"mistral-common refuses the chat: {str(error)[:500]}", "messages") from None
        return Rendered(self._text_of(tokens), array("I", tokens))

    def encode(self, text: str, *, add_special_tokens: bool) -> TokenIds:
        """Returns the tokens of a text; raises PromptError for a text with a lone surrogate."""
        try:
            return array("I", self._tokenizer.encode(text, bos=add_special_tokens, eos=False))
        except (TypeError, UnicodeEncodeError):
            raise PromptError("the text holds an invalid character (a lone surrogate)") from None

    @property
    def vocabulary_size(self) -> int:
        return int(self._tokenizer.n_words)

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens, including special ones; unknown ids have none."""
        known = [token for token in tokens if 0 <= token < self.vocabulary_size]
        return str(self._tokenizer.decode(known, special_token_policy=self._keep))

    def strings(self, tokens: Sequence[int]) -> list[str | None]:
        """Returns each token's vocabulary entry; None for an unknown id."""
        size = self.vocabulary_size
        return [self._tokenizer.id_to_piece(token) if 0 <= token < size else None for token in tokens]

    def _text_of(self, tokens: list[int]) -> str:
        """The text of a chat. Runs between special tokens are cached; Tekkenizer decodes each run on its own."""
        if self._special_tokens is None:
            return str(self._tokenizer.decode(tokens, special_token_policy=self._keep))
        texts, start = [], 0
        count = len(self._special_tokens)
        for end in [at for at, token in enumerate(tokens) if token < count]:
            if end > start:
                texts.append(self._text_of_run(tokens[start:end]))
            texts.append(self._special_tokens[tokens[end]])
            start = end + 1
        return "".join(texts) + (self._text_of_run(tokens[start:]) if start < len(tokens) else "")

    def _text_of_run(self, tokens: list[int]) -> str:
        key = array("I", tokens).tobytes().decode("latin-1")
        if (cached := self._cache.get(self._text_root, key)) is not None:
            return cached.decode()
        text = str(self._tokenizer.decode(tokens, special_token_policy=self._keep))
        self._cache.put(self._text_root, key, text.encode())
        return text

    def _encode_cached(self, s: str, bos: bool, eos: bool) -> list[int]:
        tokens = array("I")
        if (cached := self._cache.get(self._root, s)) is None:
            tokens.extend(self._encode_uncached(s, bos=False, eos=False))
            self._cache.put(self._root, s, tokens.tobytes())
        else:
            tokens.frombytes(cached)
        before = [self._tokenizer.bos_id] if bos else []
        return [*before, *tokens, *([self._tokenizer.eos_id] if eos else [])]


def _check(chat: Chat, efforts: tuple[str, ...]) -> None:
    """Rejects the same requests as `validate_request_params` and `_validate_apply_chat_template_args`."""
    if not chat.messages:
        raise PromptError("messages must hold at least one message", "messages")
    for field in ("chat_template", "chat_template_kwargs"):
        if getattr(chat, field) is not None:
            raise PromptError(f"{field} has no meaning for a model of Mistral's own format", field)
    if chat.reasoning_effort is not None and chat.reasoning_effort not in efforts:
        raise PromptError(f"reasoning_effort must be one of {', '.join(efforts)} here", "reasoning_effort")
    by_assistant = chat.messages[-1].get("role") == "assistant"
    if chat.add_generation_prompt and chat.continue_final_message:
        raise PromptError("continue_final_message and add_generation_prompt cannot both be true", "messages")
    if chat.add_generation_prompt and by_assistant:
        raise PromptError("the last message is the assistant's: set continue_final_message", "messages")
    if chat.continue_final_message and not by_assistant:
        raise PromptError("only a final message of the assistant can be continued", "continue_final_message")


def _message(message: _Json) -> _Json:
    """Truncates ids of tool calls to their last characters (`truncate_tool_call_ids`)."""
    if message.get("role") == "assistant":
        calls = message.get("tool_calls") or []
        if not isinstance(calls, list):
            raise PromptError("tool_calls must be a list", "messages")
        return {**message, "tool_calls": [_call(call) for call in calls]}
    if message.get("role") == "tool" and isinstance(message.get("tool_call_id"), str):
        return {**message, "tool_call_id": message["tool_call_id"][-_MAX_CALL_ID:]}
    return message


def _call(call: Any) -> Any:
    """A tool call with a short id; arguments that are no JSON object become an empty one, as in vLLM."""
    if not isinstance(call, dict):
        raise PromptError("tool_calls must be a list of objects", "messages")
    if isinstance(call.get("id"), str):
        call = {**call, "id": call["id"][-_MAX_CALL_ID:]}
    function = call.get("function")
    if not isinstance(function, dict) or "arguments" not in function:
        return call
    arguments = function["arguments"]
    if arguments is not None and not isinstance(arguments, str):
        raise PromptError("arguments of a tool call must be a string that holds JSON", "messages")
    try:
        is_object = isinstance(json.loads(arguments or ""), dict)
    except (ValueError, RecursionError):
        is_object = False
    return call if is_object else {**call, "function": {**function, "arguments": "{}"}}
