"""Renders chats for gpt-oss, as vLLM 0.32 does with OpenAI's Harmony format instead of the chat template.

Follows `_make_request_with_harmony` (`renderers/online_renderer.py`) and `harmony_utils.py`. The package oss-harmony
contains the vocabulary, so nothing is downloaded. Each message is rendered separately and cached: the next turn of a
chat renders only its new messages.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

import msgspec

from service.prompts.chat import Chat
from service.prompts.errors import PromptError
from service.prompts.renderers.base import Rendered, RendererMissing
from service.prompts.templates.conversation import check_tool_choice, parse_tools
from service.prompts.tokens.token_cache import CachedChunk, TokenCache

_Json: TypeAlias = dict[str, Any]

_EFFORTS = {"low": "Low", "medium": "Medium", "high": "High"}
_COUNT_BYTES = 4


class _Part(NamedTuple):
    text: str
    tokens: bytes


class HarmonyRenderer:
    """Renders for all models of type gpt_oss."""

    name = "harmony"

    def __init__(self, cache: TokenCache, today: Callable[[], str] | None = None) -> None:
        """`today` returns the date for the engine's system message. Raises RendererMissing."""
        try:
            import openai_harmony  # noqa: PLC0415 - an optional dependency, loaded when a model needs it
        except ImportError:
            raise RendererMissing("oss-harmony") from None
        self._harmony = openai_harmony
        self._encoding = openai_harmony.load_harmony_encoding(openai_harmony.HarmonyEncodingName.HARMONY_GPT_OSS)
        self._today = today or _today
        self._start, self._channel, self._constrain, self._message = (
            self._special(f"<|{name}|>") for name in ("start", "channel", "constrain", "message")
        )
        self._cache, self._root = cache, CachedChunk()
        self._generation = self._part_of([self._start, *self._encoding.encode("assistant")])

    def render(self, chat: Chat) -> Rendered:
        """Returns the text and tokens of a chat; raises PromptError."""
        tools = parse_tools(chat.tools)
        check_tool_choice(chat.tool_choice, tools)
        messages = _drop_analysis([*self._preamble(chat, tools), *_conversation(chat.messages)])
        parts = [self._part(message, has_tools=bool(tools)) for message in messages]
        parts.append(self._generation)
        return Rendered("".join(part.text for part in parts), array("I", b"".join(part.tokens for part in parts)))

    def _preamble(self, chat: Chat, tools: Sequence[_Json] | None) -> list[_Json]:
        effort = chat.reasoning_effort
        if effort is not None and effort not in _EFFORTS:
            raise PromptError(f"reasoning_effort must be one of {', '.join(_EFFORTS)} here", "reasoning_effort")
        system = {
            "type": "system_content",
            "model_identity": "You are ChatGPT, a large language model trained by OpenAI.",
            "reasoning_effort": _EFFORTS[effort or "medium"],
            "conversation_start_date": self._today(),
            "knowledge_cutoff": "2024-06",
            "channel_config": {"valid_channels": ["analysis", "commentary", "final"], "channel_required": True},
        }
        preamble: list[_Json] = [{"role": "system", "content": [system]}]
        instructions = _instructions(chat.messages)
        if instructions or tools:
            preamble.append(_developer(instructions, tools))
        return preamble

    def _part(self, message: _Json, *, has_tools: bool) -> _Part:
        try:
            key = msgspec.json.encode([message, has_tools and message["role"] == "system"]).decode()
            if (packed := self._cache.get(self._root, key)) is not None:
                return _unpacked(packed)
            options = self._harmony.RenderOptions(conversation_has_function_tools=has_tools)
            tokens = self._encoding.render(self._harmony.Message.from_dict(message), options)
            part = self._part_of(self._with_legacy_header(tokens))
        except (ValueError, TypeError, OverflowError, RecursionError, self._harmony.HarmonyError) as error:
            raise PromptError(f"a message cannot be rendered: {str(error)[:300]}", "messages") from None
        self._cache.put(self._root, key, _packed(part))
        return part

    def _part_of(self, tokens: Sequence[int]) -> _Part:
        return _Part(self._encoding.decode(tokens), array("I", tokens).tobytes())

    def _with_legacy_header(self, tokens: list[int]) -> list[int]:
        """Writes the header of a tool call as gpt-oss was trained on it (`_use_legacy_tool_call_headers`)."""
        try:
            end = tokens.index(self._message)
            channel = tokens.index(self._channel, 0, end)
            constrain = tokens.index(self._constrain, channel, end)
        except ValueError:
            return tokens
        author = self._encoding.decode(tokens[1:channel])
        name, _, recipient = self._encoding.decode(tokens[channel + 1 : constrain]).removesuffix(" ").partition(" to=")
        content_type = self._encoding.decode(tokens[constrain + 1 : end])
        if author != "assistant" or not (name and recipient and content_type):
            return tokens
        header = [self._start, *self._encoding.encode(f"assistant to={recipient}"), self._channel]
        return [*header, *self._encoding.encode(f"{name} {content_type}"), *tokens[end:]]

    def _special(self, token: str) -> int:
        (number,) = self._encoding.encode(token, allowed_special="all")
        return int(number)


def _today() -> str:
    # vLLM's own variable, which pins the date in its system messages.
    return os.environ.get("VLLM_SYSTEM_START_DATE") or datetime.now().strftime("%Y-%m-%d")


def _instructions(messages: Sequence[_Json]) -> str | None:
    if not messages:
        return None  # vLLM renders such a chat
    first = messages[0]
    if first.get("role") in ("system", "developer") and first.get("content", "") is None:
        raise PromptError("messages[0].content must not be null", "messages[0].content")
    return _flat(first.get("content")) if first.get("role") in ("system", "developer") else None


def _developer(instructions: str | None, tools: Sequence[_Json] | None) -> _Json:
    content: _Json = {"type": "developer_content"}
    if instructions is not None:
        content["instructions"] = instructions
    if tools:
        functions = [
            {
                "name": tool["function"]["name"],
                "description": tool["function"]["description"] or "",
                **({"parameters": given} if (given := tool["function"]["parameters"]) is not None else {}),
            }
            for tool in tools
        ]
        content["tools"] = {"functions": {"name": "functions", "tools": functions}}
    return {"role": "developer", "content": [content]}


def _conversation(messages: Sequence[_Json]) -> list[_Json]:
    rest = messages[1:] if messages and messages[0].get("role") in ("system", "developer") else messages
    names: dict[str, str] = {}
    for number, message in enumerate(rest):
        for call in _calls(message, f"messages[{number}]"):
            names[_id(call, "id", f"messages[{number}].tool_calls")] = call["function"].get("name") or ""
    return [part for number, message in enumerate(rest) for part in _parts_of(message, names, f"messages[{number}]")]


def _parts_of(message: _Json, names: Mapping[str, str], where: str) -> list[_Json]:
    """`parse_chat_input_to_harmony_message`: the Harmony messages of one message of a request."""
    role, content = message.get("role"), message.get("content")
    if content is None and "content" in message and role != "assistant":
        raise PromptError(f"{where}.content must not be null", f"{where}.content")
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    analysis = [_assistant(reasoning, "analysis")] if role == "assistant" and isinstance(reasoning, str) else []
    if role == "assistant" and (calls := _calls(message, where)):
        commentary = [_assistant(text, "commentary")] if (text := _flat(content)) else []
        return [*commentary, *analysis, *(_call(call, where) for call in calls)]
    if role == "tool":
        name = names.get(_id(message, "tool_call_id", where), "")
        return [
            {
                "role": "tool",
                "name": f"functions.{name}",
                "content": [_text(_flat(content) or "")],
                "channel": "commentary",
                "recipient": "assistant",
            }
        ]
    if role == "assistant":
        contents = _contents(content, where)
        final = [{"role": role, "content": contents, "channel": "final"}] if contents and contents[0]["text"] else []
        return [*analysis, *final]
    if role in ("system", "developer"):
        return [] if (text := _flat(content)) is None else [_developer(text, None)]
    if role != "user":
        raise PromptError(f"{where}.role must be system, developer, user, assistant or tool", f"{where}.role")
    return [{"role": role, "content": _contents(content, where)}]


def _calls(message: _Json, where: str) -> list[_Json]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list) or not all(
        isinstance(call, dict) and isinstance(call.get("function"), dict) for call in calls
    ):
        raise PromptError(f"{where}.tool_calls must be a list of function calls", f"{where}.tool_calls")
    return calls


def _id(of: _Json, field: str, where: str) -> str:
    """The id of a tool call; empty if there is none."""
    value = of.get(field)
    if value is not None and not isinstance(value, str):
        raise PromptError(f"{where}.{field} must be a string", f"{where}.{field}")
    return value or ""


def _call(call: _Json, where: str) -> _Json:
    arguments = call["function"].get("arguments") or ""
    if not isinstance(arguments, str):
        raise PromptError(f"{where}.tool_calls: arguments must be a string", f"{where}.tool_calls")
    name = call["function"].get("name", "")
    return {**_assistant(arguments, "commentary"), "recipient": f"functions.{name}", "content_type": "json"}


def _assistant(text: str, channel: str) -> _Json:
    return {"role": "assistant", "content": [_text(text)], "channel": channel}


def _text(text: str) -> _Json:
    return {"type": "text", "text": text}


def _contents(content: Any, where: str) -> list[_Json]:
    content = content or ""
    if isinstance(content, str):
        return [_text(content)]
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise PromptError(f"{where}.content must be a string or a list of parts", f"{where}.content")
    for number, part in enumerate(content):
        if not isinstance(part.get("type"), str):
            raise PromptError(f"{where}.content[{number}].type must be a string", f"{where}.content[{number}].type")
        if not isinstance(part.get("text", ""), str):
            raise PromptError(f"{where}.content[{number}].text must be a string", f"{where}.content[{number}].text")
    return [_text(part.get("text", "")) for part in content]


def _flat(content: Any) -> str | None:
    """`flatten_input_text_content`: the text parts of a content joined; None without text."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [part if isinstance(part, str) else part.get("text") for part in content if isinstance(part, str | dict)]
    strings = [text for text in texts if isinstance(text, str)]
    return "".join(strings) if strings else None


def _drop_analysis(messages: Sequence[_Json]) -> list[_Json]:
    """Drops the reasoning before the last final answer (`auto_drop_analysis_messages`)."""
    finals = [number for number, one in enumerate(messages) if one["role"] == "assistant" and one["channel"] == "final"]
    last = finals[-1] if finals else -1
    return [one for number, one in enumerate(messages) if number > last or one.get("channel") != "analysis"]


def _packed(part: _Part) -> bytes:
    return len(part.tokens).to_bytes(_COUNT_BYTES, "little") + part.tokens + part.text.encode()


def _unpacked(packed: bytes) -> _Part:
    end = _COUNT_BYTES + int.from_bytes(packed[:_COUNT_BYTES], "little")
    return _Part(packed[end:].decode(), packed[_COUNT_BYTES:end])
