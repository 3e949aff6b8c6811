"""Converts bodies of OpenAI's POST /v1/responses to chat requests, as vLLM 0.33 does (`openai/responses/utils.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from service.api.errors import ApiError
from service.api.validation import an_array, an_object

_Json: TypeAlias = dict[str, Any]

_KEPT: Final = (
    *("model", "cache_salt", "chat_template_kwargs", "mm_processor_kwargs", "media_io_kwargs"),
    *("lora_name", "pods", "top", "placements"),
    *("prompt_logprobs", "prompt_logprob_token_ids"),
)


def chat_body(body: Mapping[str, Any]) -> _Json:
    """The chat request of a body of /v1/responses. Raises ApiError 400 that names the field."""
    if body.get("previous_response_id") is not None:
        message = "`previous_response_id` names a response that only its engine has"
        raise ApiError(400, message, param="previous_response_id")
    chat: _Json = {name: body[name] for name in _KEPT if body.get(name) is not None}
    chat["messages"] = messages = []
    if instructions := body.get("instructions"):
        messages.append({"role": "system", "content": instructions})
    given = body.get("input")
    if isinstance(given, str):
        messages.append({"role": "user", "content": given})
    elif isinstance(given, list):
        for number, item in enumerate(given):
            _add_item(item, messages, f"input[{number}]")
    else:
        raise ApiError(400, "`input` must be a string or an array", param="input")
    if isinstance(given, list) and given and _is_partial(given[-1]):
        chat |= {"add_generation_prompt": False, "continue_final_message": True}
    if tools := body.get("tools"):
        chat["tools"] = [_tool(tool, f"tools[{number}]") for number, tool in enumerate(an_array(tools, "tools"))]
        choice = body.get("tool_choice")
        chat["tool_choice"] = (
            {"type": "function", "function": {"name": choice.get("name")}} if isinstance(choice, dict) else choice
        )
    reasoning = body.get("reasoning")
    if isinstance(reasoning, dict) and reasoning.get("effort") is not None:
        chat["reasoning_effort"] = reasoning["effort"]
    if body.get("truncation") == "auto":
        chat["truncate_prompt_tokens"] = -1
    return chat


def _add_item(item: Any, messages: list[_Json], where: str) -> None:
    """Adds an item as a message, or to the assistant's message before it."""
    an_object(item, where)
    before = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    match item.get("type"):
        case "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if before is None:
                messages.append({"role": "assistant", "tool_calls": [call]})
            else:
                an_array(before.setdefault("tool_calls", []), "input.tool_calls").append(call)
        case "function_call_output":
            messages.append({"role": "tool", "content": item.get("output"), "tool_call_id": item.get("call_id")})
        case "reasoning":
            _add_to_assistant(messages, "reasoning", _reasoning(item, where))
        case None | "message" if item.get("role") == "assistant":
            text = _assistant_text(item.get("content"))
            if text is None:
                messages.append(item)
            else:
                _add_to_assistant(messages, "content", text)
        case None | "message" if isinstance(item.get("role"), str):
            messages.append({name: value for name, value in item.items() if name != "type"})
        case kind:
            raise ApiError(400, f"`{where}` is of type {kind!r}: ask an engine", param=f"{where}.type")


def _add_to_assistant(messages: list[_Json], field: str, text: str) -> None:
    before = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    if before is not None and before.get(field) is None:
        before[field] = text
    else:
        messages.append({"role": "assistant", field: text})


def _reasoning(item: _Json, where: str) -> str:
    if item.get("encrypted_content"):
        raise ApiError(400, f"`{where}.encrypted_content` is not supported", param=where)
    for field in ("content", "summary"):
        parts = item.get(field)
        if isinstance(parts, list) and parts and isinstance(parts[0], dict):
            return str(parts[0].get("text", ""))
    return ""


def _assistant_text(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    first = content[0] if isinstance(content, list) and content else None
    text = first.get("text") if isinstance(first, dict) else None
    return text if isinstance(text, str) else None


def _is_partial(item: Any) -> bool:
    """Whether the final item is an unfinished message of the assistant, which the model continues."""
    return (
        isinstance(item, dict)
        and item.get("type", "message") in ("message", "reasoning")
        and item.get("role", "assistant") == "assistant"
        and item.get("status") in ("in_progress", "incomplete")
    )


def _tool(tool: Any, where: str) -> _Json:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise ApiError(400, f"`{where}` must be of type function: ask an engine about others", param=where)
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}
