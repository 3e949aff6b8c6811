"""Bodies of /v1/responses and /v1/messages as chat requests, for texts, tools and results of tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from service.simulation.prompts import BadRequest

Json: TypeAlias = dict[str, Any]

_KEPT = ("model", "stream", "cache_salt", "chat_template_kwargs")


def chat_of_response(body: Mapping[str, Any]) -> Json:
    """The chat request of a body of OpenAI's /v1/responses. Raises BadRequest."""
    chat = _kept(body, body.get("max_output_tokens"))
    messages: list[Json] = []
    if body.get("instructions"):
        messages.append({"role": "system", "content": body["instructions"]})
    given = body.get("input")
    if not isinstance(given, str | list):
        raise BadRequest("input must be a string or a list", "input")
    for item in [{"role": "user", "content": given}] if isinstance(given, str) else given:
        match item.get("type"):
            case "function_call":
                function = {"name": item.get("name"), "arguments": item.get("arguments")}
                call = {"id": item.get("call_id"), "type": "function", "function": function}
                messages.append({"role": "assistant", "tool_calls": [call]})
            case "function_call_output":
                messages.append({"role": "tool", "content": item.get("output"), "tool_call_id": item.get("call_id")})
            case _:
                messages.append({"role": item.get("role"), "content": _text(item.get("content"))})
    tools = [_tool(tool, "parameters") for tool in body.get("tools") or ()]
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    return {**chat, "messages": messages, **({"tools": tools, "tool_choice": choice or "auto"} if tools else {})}


def chat_of_message(body: Mapping[str, Any]) -> Json:
    """The chat request of a body of Anthropic's /v1/messages. Raises BadRequest."""
    chat = _kept(body, body.get("max_tokens"))
    given = body.get("messages")
    if not isinstance(given, list):
        raise BadRequest("messages must be a list", "messages")
    system = _text(body.get("system"))
    messages: list[Json] = [{"role": "system", "content": system}] if system else []
    for message in given:
        messages += _messages(message)
    tools = [_tool(tool, "input_schema") for tool in body.get("tools") or ()]
    choice = body.get("tool_choice") or {}
    asked: object = {"any": "required", "none": "none"}.get(str(choice.get("type")), "auto")
    if choice.get("type") == "tool":
        asked = {"type": "function", "function": {"name": choice.get("name")}}
    return {**chat, "messages": messages, **({"tools": tools, "tool_choice": asked} if tools else {})}


def _messages(message: Mapping[str, Any]) -> Iterator[Json]:
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    for block in blocks:
        if block.get("type") == "tool_result":
            yield {"role": "tool", "content": _text(block.get("content")), "tool_call_id": block.get("tool_use_id")}
    if text := _text(content):
        yield {"role": message.get("role"), "content": text}


def _kept(body: Mapping[str, Any], max_tokens: object) -> Json:
    kept = {name: body[name] for name in _KEPT if body.get(name) is not None}
    return {**kept, "max_tokens": max_tokens} if max_tokens is not None else kept


def _text(content: object) -> str:
    if isinstance(content, str) or content is None:
        return content or ""
    if not isinstance(content, list):
        raise BadRequest("content must be a string or a list", "content")
    return "".join(str(part["text"]) for part in content if "text" in part)


def _tool(tool: Mapping[str, Any], schema: str) -> Json:
    function = {"name": tool.get("name"), "description": tool.get("description"), "parameters": tool.get(schema)}
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}
