"""Parses the messages and tools of a request into the form that chat templates expect.

Follows `parse_chat_messages` and the request's own validation in vLLM 0.33 (`renderers/chat_utils/chat_message.py`,
`entrypoints/openai/chat_completion/protocol.py`): fields, their order and their defaults equal those of vLLM's typed
request, since a template may print a whole object as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

from service.native.backend import is_text_only
from service.prompts.errors import PromptError

ContentFormat: TypeAlias = Literal["string", "openai"]
"""Whether a template reads a message's content as one string, or loops over its parts."""

Message: TypeAlias = dict[str, Any]

_TEXT_PARTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
    "tool_reference": "name",
}
_MEDIA_KEYS = (
    "image_url",
    "image_pil",
    "image_embeds",
    "audio_embeds",
    "video_embeds",
    "prompt_embeds",
    "audio_url",
    "input_audio",
    "video_url",
)
_MEDIA_TYPES = frozenset((*_MEDIA_KEYS, "input_image", "image", "audio", "video", "file"))
_KNOWN_PART_FIELDS = frozenset(
    {
        "audio_embeds",
        "audio_url",
        "closed",
        "data",
        "file",
        "image_embeds",
        "image_pil",
        "image_url",
        "input_audio",
        "name",
        "prompt_cache_breakpoint",
        "refusal",
        "text",
        "thinking",
        "type",
        "uuid",
        "video_embeds",
        "video_url",
    }
)
_FUNCTION = ("name", "description", "parameters", "strict")
_BILLING_HEADER = "x-anthropic-billing-header"


def are_text_only(messages: list[dict[str, Any]]) -> bool:
    """Whether every message is only a role and a text, in that order, so that it needs no parsing."""
    return is_text_only(messages, _BILLING_HEADER)


def parse_messages(messages: list[dict[str, Any]], content_format: ContentFormat) -> list[Message]:
    """Converts the messages to a template's content format; raises PromptError that names the field."""
    if not messages:
        raise PromptError("messages must hold at least one message", "messages")
    if content_format == "string" and are_text_only(messages):
        return messages  # The common case; templates do not modify their variables.
    return [
        message
        if content_format == "string" and are_text_only([message])
        else _parse_message(message, content_format, n)
        for n, message in enumerate(messages)
    ]


def parse_tools(tools: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Returns the tools with the fields, order and nulls of vLLM's `ChatCompletionToolsParam.model_dump()`."""
    if tools is None:
        return None
    if not tools:
        raise PromptError("tools must not be empty: leave the field out, or give one tool or more", "tools")
    return [_parse_tool(tool, f"tools[{n}]") for n, tool in enumerate(tools)]


def check_tool_choice(choice: str | dict[str, Any] | None, tools: list[dict[str, Any]] | None) -> None:
    """Raises PromptError for a choice that vLLM rejects; a valid one does not change the prompt."""
    if choice is None or choice == "none":
        return
    if tools is None:
        raise PromptError("tool_choice needs tools", "tool_choice")
    if isinstance(choice, str):
        if choice not in ("auto", "required"):
            raise PromptError(
                f'tool_choice must be "none", "auto", "required" or a tool, not {choice!r}', "tool_choice"
            )
        return
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise PromptError('tool_choice must be {"type": "function", "function": {"name": "…"}}', "tool_choice")
    if all(tool["function"]["name"] != name for tool in tools):
        raise PromptError(f"tool_choice names {name!r}, which is not one of the tools", "tool_choice")


def _parse_tool(tool: Any, where: str) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or tool.get("type", "function") != "function":
        raise PromptError(f'{where} must be {{"type": "function", "function": {{…}}}}', where)
    name, description, parameters = (function.get(field) for field in ("name", "description", "parameters"))
    if not isinstance(name, str):
        raise PromptError(f"{where}.function.name must be a string", f"{where}.function.name")
    if description is not None and not isinstance(description, str):
        raise PromptError(f"{where}.function.description must be a string", f"{where}.function.description")
    if parameters is not None and not isinstance(parameters, dict):
        raise PromptError(f"{where}.function.parameters must be an object", f"{where}.function.parameters")
    parsed: dict[str, Any] = {"name": name, "description": description, "parameters": parameters}
    if function.get("strict") is not None:
        parsed["strict"] = function["strict"]
    deferred = tool.get("defer_loading")
    if (defer_loading := function.get("defer_loading", deferred)) is not None:
        parsed["defer_loading"] = defer_loading
    outer: dict[str, Any] = {"type": "function", "function": parsed}
    if deferred is not None:
        outer["defer_loading"] = deferred
    return outer


def _parse_message(message: Mapping[str, Any], content_format: ContentFormat, number: int) -> Message:
    where = f"messages[{number}]"
    role = message.get("role")
    if not isinstance(role, str):
        raise PromptError(f"{where}.role must be a string", f"{where}.role")
    parsed: Message = {"role": role, "content": _parse_content(message, role, content_format, where)}
    if role == "assistant":
        calls = message.get("tool_calls")
        if calls is not None and (parsed_calls := _parse_tool_calls(calls, f"{where}.tool_calls")):
            parsed["tool_calls"] = parsed_calls
        reasoning = message.get("reasoning")
        if reasoning is None:
            reasoning = message.get("reasoning_content")
        if reasoning is not None:
            if not isinstance(reasoning, str):
                raise PromptError(f"{where}.reasoning must be a string", f"{where}.reasoning")
            parsed |= {"reasoning": reasoning, "reasoning_content": reasoning}
    elif role == "tool":
        if message.get("tool_call_id") is not None:
            parsed["tool_call_id"] = message["tool_call_id"]
        parsed["content"] = _tool_content(parsed["content"])
    for field in ("name", "task"):
        if isinstance(message.get(field), str):
            parsed[field] = message[field]
    if role == "developer" and message.get("tools") is not None:
        parsed["tools"] = _developer_tools(message["tools"], f"{where}.tools")
    return parsed


def _parse_content(
    message: Mapping[str, Any], role: str, content_format: ContentFormat, where: str
) -> str | list[dict[str, Any]]:
    content = message.get("content")
    if content is None:
        if role != "assistant" and "content" in message:
            raise PromptError(f"{where}.content must not be null, unless the assistant calls tools", f"{where}.content")
        parts: list[Any] = []
    elif isinstance(content, str):
        if content_format == "string" and not (role == "system" and content.startswith(_BILLING_HEADER)):
            return content
        parts = [{"type": "text", "text": content}]
    elif isinstance(content, list):
        parts = content
    else:
        raise PromptError(f"{where}.content must be a string, a list of parts or null", f"{where}.content")
    if role == "system":
        parts = list(_without_billing_header(parts))
    read = (_parse_part(part, f"{where}.content[{n}]") for n, part in enumerate(parts))
    if content_format == "openai":
        return [part for part in read if part is not None]
    return "\n".join(text for part in read if part is not None and (text := part.get("text", part.get("name"))))


def _parse_part(part: Any, where: str) -> dict[str, Any] | None:
    """Returns a part as `{"type": "text", …}`; None for an empty one."""
    if not isinstance(part, dict):
        raise PromptError(f"{where} must be an object with a type", where)
    kind = part.get("type")
    if (media := medium_type(part)) is not None:
        raise PromptError(f"{where} is of type {media!r}: only text is scored", where)
    if not isinstance(kind, str) or kind not in _TEXT_PARTS:
        raise PromptError(f"{where}.type must be one of {', '.join(_TEXT_PARTS)}, not {kind!r}", f"{where}.type")
    text = part.get(_TEXT_PARTS[kind])
    if text is None and kind in ("text", "refusal"):
        return None
    if not isinstance(text, str):
        raise PromptError(f"{where}.{_TEXT_PARTS[kind]} must be a string", f"{where}.{_TEXT_PARTS[kind]}")
    if kind == "tool_reference":
        return {"type": kind, "name": text}
    extra = {field: value for field, value in part.items() if field not in _KNOWN_PART_FIELDS}
    return {"type": "text", "text": text, **extra}


def medium_type(part: Any) -> str | None:
    """The type of a content part that is an image, audio or video; None for others."""
    if not isinstance(part, dict):
        return None
    kind = part.get("type")
    media = kind if kind is not None else next((key for key in _MEDIA_KEYS if key in part), None)
    return media if isinstance(media, str) and media in _MEDIA_TYPES else None


def _without_billing_header(parts: Iterable[Any]) -> Iterator[Any]:
    """Drops a line that one client sends with a different value each time, as vLLM does, to preserve cache hits."""
    for part in parts:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
        if isinstance(text, str) and text.startswith(_BILLING_HEADER):
            if rest := text.partition("\n")[2]:
                yield {**part, "text": rest} if isinstance(part, dict) else rest
        else:
            yield part


def _tool_content(content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Joins a tool result of text parts to a string, the only form that most templates accept."""
    if isinstance(content, str) or any(part["type"] != "text" for part in content):
        return content
    return "\n".join(part["text"] for part in content)


def _developer_tools(tools: Any, where: str) -> list[dict[str, Any]]:
    """Returns the tools of a developer message with their fields in the order of vLLM's typed messages."""
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise PromptError(f"{where} must be a list of objects", where)
    return [
        _in_order(tool, "function", "type") | {"function": _in_order(tool.get("function"), *_FUNCTION)}
        for tool in tools
    ]


def _in_order(fields: Any, *first: str) -> Any:
    if not isinstance(fields, dict):
        return fields
    return {
        field: fields[field]
        for field in (*first, *(field for field in fields if field not in first))
        if field in fields
    }


def _parse_tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise PromptError(f"{where} must be a list", where)
    return [_parse_tool_call(call, f"{where}[{n}]") for n, call in enumerate(calls)]


def _parse_tool_call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type", "function") != "function":
        raise PromptError(f"{where} must be of type function", where)
    if not isinstance(function.get("name"), str):
        raise PromptError(f"{where}.function.name must be a string", f"{where}.function.name")
    if not isinstance(function.get("arguments", ""), str | None):
        field = f"{where}.function.arguments"
        raise PromptError(f"{field} must be a string that holds JSON", field)
    # The field order of vLLM's typed request, not that of the client.
    parsed = {**function, "arguments": _arguments(function.get("arguments"))}
    ordered = {**call, "function": _in_order(parsed, "arguments", "name")}
    return dict(_in_order(ordered, "id", "function", "type"))


def _arguments(arguments: Any) -> dict[str, Any]:
    """Returns a call's arguments as an object; invalid ones become an empty object, as in vLLM."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return {}
    return arguments if isinstance(arguments, dict) else {}
