"""Converts bodies of Anthropic's POST /v1/messages to chat requests, as vLLM 0.33 does (`entrypoints/anthropic`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from service.api.errors import ApiError
from service.api.validation import an_array, an_object

_Json: TypeAlias = dict[str, Any]

_BILLING_HEADER: Final = "x-anthropic-billing-header"
_OWN_FIELDS: Final = ("system", "thinking", "output_config", "stop_sequences")
_KEPT: Final = (
    *("model", "cache_salt", "chat_template_kwargs", "lora_name", "pods", "top", "placements"),
    *("prompt_logprobs", "prompt_logprob_token_ids"),
)


def is_anthropic(body: Mapping[str, Any]) -> bool:
    """Whether a body with messages has fields that only Anthropic's API has."""
    if any(body.get(field) is not None for field in _OWN_FIELDS):
        return True
    tools = body.get("tools")
    return isinstance(tools, list) and any(isinstance(tool, dict) and "input_schema" in tool for tool in tools)


def chat_body(body: Mapping[str, Any]) -> _Json:
    """The chat request of a body of /v1/messages. Raises ApiError 400 that names the field."""
    messages = list(_system(body))
    for number, message in enumerate(an_array(body.get("messages"), "messages")):
        messages += _messages(message, f"messages[{number}]")
    chat: _Json = {name: body[name] for name in _KEPT if body.get(name) is not None}
    chat["messages"] = messages
    if (tools := body.get("tools")) is not None:
        chat["tools"] = [_tool(tool, f"tools[{number}]") for number, tool in enumerate(an_array(tools, "tools"))]
    if (choice := _tool_choice(body.get("tool_choice"))) is not None:
        chat["tool_choice"] = choice
    if (effort := _effort(body)) is not None:
        chat["reasoning_effort"] = effort
    return chat


def _system(body: Mapping[str, Any]) -> Iterator[_Json]:
    system = body.get("system")
    if not system:
        return
    if isinstance(system, str):
        yield {"role": "system", "content": system}
        return
    if text := _text_of(an_array(system, "system"), "system"):
        yield {"role": "system", "content": text}


def _text_of(blocks: list[Any], where: str) -> str:
    """The text of blocks, without the line that differs with every request."""
    texts = []
    for number, block in enumerate(blocks):
        text = an_object(block, f"{where}[{number}]").get("text")
        if block.get("type") == "text" and isinstance(text, str) and not text.startswith(_BILLING_HEADER):
            texts.append(text)
    return "".join(texts)


def _messages(message: Any, where: str) -> list[_Json]:
    role, content = an_object(message, where).get("role"), message.get("content")
    if role == "system":
        # Whether vLLM moves it to the front depends on a trial of the model's template.
        raise ApiError(400, f"`{where}` is a system message within the messages: ask an engine", param=f"{where}.role")
    if role not in ("user", "assistant"):
        raise ApiError(400, f"`{where}.role` must be user or assistant", param=f"{where}.role")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    turn = _Turn(role)
    for number, block in enumerate(an_array(content, f"{where}.content")):
        turn.add(block, f"{where}.content[{number}]")
    return turn.messages()


class _Turn(msgspec.Struct):
    """The messages of one message with blocks: the results of tools come first."""

    role: str
    parts: list[_Json] = msgspec.field(default_factory=list)
    calls: list[_Json] = msgspec.field(default_factory=list)
    reasoning: list[str] = msgspec.field(default_factory=list)
    results: list[_Json] = msgspec.field(default_factory=list)

    def add(self, block: Any, where: str) -> None:
        """Adds a block of content. Raises ApiError 400 for one that is no object."""
        match an_object(block, where).get("type"):
            case "text" if block.get("text"):
                self.parts.append({"type": "text", "text": block["text"]})
            case "image" if isinstance(block.get("source"), dict):
                self.parts.append(_image(block["source"]))
            case "thinking" if isinstance(block.get("thinking"), str):
                self.reasoning.append(block["thinking"])
            case "tool_use":
                function = {"name": block.get("name") or "", "arguments": json.dumps(block.get("input") or {})}
                self.calls.append({"id": block.get("id") or "call_0", "type": "function", "function": function})
            case "tool_result" if self.role == "user":
                self.results += _results(block, where)
            case "tool_result":
                self.parts.append({"type": "text", "text": f"Tool result: {block.get('content') or ''}"})

    def messages(self) -> list[_Json]:
        turned: _Json = {"role": self.role}
        if self.reasoning:
            turned["reasoning"] = "".join(self.reasoning)
        if self.calls:
            turned["tool_calls"] = self.calls
        if self.parts:
            only_text = len(self.parts) == 1 and self.parts[0]["type"] == "text"
            turned["content"] = self.parts[0]["text"] if only_text else self.parts
        return self.results if self.role == "user" and "content" not in turned else [*self.results, turned]


def _results(block: _Json, where: str) -> list[_Json]:
    """The messages of a tool's result: its text, its images, and the tools that it names."""
    content, call = block.get("content"), block.get("tool_use_id") or ""
    items = [item for item in content if isinstance(item, dict)] if isinstance(content, list) else []
    text = content if isinstance(content, str) else "\n".join(_texts(items))
    sources = [item.get("source", {}) for item in items if item.get("type") == "image"]
    images = [_image(an_object(source, f"{where}.content.source")) for source in sources]
    named = [item.get("tool_name") or item.get("name") for item in items if item.get("type") == "tool_reference"]
    found: list[_Json] = [{"role": "tool", "tool_call_id": call, "content": text}]
    if images:
        found.append({"role": "user", "content": images})
    if references := [{"type": "tool_reference", "name": name} for name in named if name]:
        found.append({"role": "tool", "tool_call_id": call, "content": references})
    return found


def _texts(items: list[_Json]) -> Iterator[str]:
    for item in items:
        if item.get("type") == "text":
            text = item.get("text", "")
            yield text if isinstance(text, str) else ""


def _image(source: _Json) -> _Json:
    if source.get("type") == "url":
        url = source.get("url", "")
    else:
        url = f"data:{source.get('media_type', 'image/jpeg')};base64,{source.get('data', '')}"
    return {"type": "image_url", "image_url": {"url": url}}


def _tool(tool: Any, where: str) -> _Json:
    schema = an_object(tool, where).get("input_schema")
    if not isinstance(schema, dict):
        raise ApiError(400, f"`{where}.input_schema` must be an object", param=f"{where}.input_schema")
    schema = schema if "type" in schema else {**schema, "type": "object"}
    function = {"name": tool.get("name"), "description": tool.get("description"), "parameters": schema}
    more = {name: tool[name] for name in ("strict", "defer_loading") if tool.get(name) is not None}
    return {"type": "function", "function": {**function, **more}}


def _tool_choice(choice: Any) -> str | _Json | None:
    if choice is None:
        return None
    kind = an_object(choice, "tool_choice").get("type")
    if kind == "tool":
        return {"type": "function", "function": {"name": choice.get("name")}}
    known = {"auto": "auto", "any": "required", "none": "none"}
    if not isinstance(kind, str) or kind not in known:
        raise ApiError(400, "`tool_choice.type` must be auto, any, tool or none", param="tool_choice.type")
    return known[kind]


def _effort(body: Mapping[str, Any]) -> str | None:
    thinking, output = body.get("thinking"), body.get("output_config")
    if thinking is not None and an_object(thinking, "thinking").get("type") == "disabled":
        return "none"
    return an_object(output, "output_config").get("effort") if output is not None else None
