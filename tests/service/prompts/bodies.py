"""Request bodies that visit what engines treat differently: those that engines are asked about, and stranger ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from service.parity.probes import CHATS, TEXTS
from tests.service.prompts.conversations import random_case
from tests.service.prompts.texts import random_text

_TOOL = CHATS["tools"]["tools"][0]
_HI = {"role": "user", "content": "Hi"}


def _call(arguments: Any) -> dict[str, Any]:
    return {"id": "abcdefghi", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


def _calling(arguments: Any) -> dict[str, Any]:
    calls = {"role": "assistant", "content": None, "tool_calls": [_call(arguments)]}
    result = {"role": "tool", "tool_call_id": "abcdefghi", "content": "12"}
    return {"messages": [{"role": "user", "content": "Weather?"}, calls, result], "tools": [_TOOL]}


STRANGE: dict[str, dict[str, Any]] = {
    "null content of a user": {"messages": [{"role": "user", "content": None}]},
    "null content of a system": {"messages": [{"role": "system", "content": None}, _HI]},
    "null content of the assistant": {"messages": [_HI, {"role": "assistant", "content": None}, _HI]},
    "no content of a user": {"messages": [{"role": "user"}]},
    "parts as bare strings": {"messages": [{"role": "user", "content": ["one", "two"]}]},
    "arguments as an object": _calling({"city": "Oslo"}),
    "arguments that are no JSON": _calling("city: Oslo"),
    "arguments that are a list": _calling('["Oslo"]'),
    "documents": {"messages": [_HI], "documents": [{"title": "One", "text": "The first."}]},
    "documents of numbers": {"messages": [_HI], "documents": [{"title": 1, "text": 2}]},
    "system at the top": {"messages": [_HI], "system": "Be brief."},
    "template variables named as globals": {
        "messages": [_HI],
        "chat_template_kwargs": {"namespace": 1, "range": 2, "dict": 3, "lipsum": 4, "cycler": 5, "joiner": 6},
    },
    "template variable named messages": {"messages": [_HI], "chat_template_kwargs": {"messages": []}},
    "template variable named tools": {"messages": [_HI], "chat_template_kwargs": {"tools": [_TOOL]}},
    "empty tools": {"messages": [_HI], "tools": []},
    "unknown role": {"messages": [{"role": "judge", "content": "Order!"}, _HI]},
    "no messages": {"messages": []},
    "two users": {"messages": [_HI, _HI]},
    "assistant first": {"messages": [{"role": "assistant", "content": "Hello"}, _HI]},
    "special tokens added": {"messages": [_HI], "add_special_tokens": True},
    "truncated": {"messages": [_HI], "truncate_prompt_tokens": 4},
    "truncated on the right": {"messages": [_HI], "truncate_prompt_tokens": 4, "truncation_side": "right"},
    "thinking alias": {"messages": [_HI, {"role": "assistant", "content": "Yes", "thinking": "Hm."}, _HI]},
    "content parts of the assistant": {
        "messages": [_HI, {"role": "assistant", "content": [{"type": "text", "text": "Yes"}]}, _HI]
    },
    "refusal": {"messages": [_HI, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, _HI]},
    "several calls": {
        "messages": [
            _HI,
            {"role": "assistant", "content": "", "tool_calls": [_call('{"city": "a"}'), _call('{"city": "b"}')]},
            {"role": "tool", "tool_call_id": "abcdefghi", "content": "1"},
            {"role": "tool", "tool_call_id": "abcdefghi", "content": "2"},
        ],
        "tools": [_TOOL],
    },
}

BODIES: dict[str, dict[str, Any]] = {**CHATS, **STRANGE}


def generated_bodies(seed: int, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Random chats, by name."""
    random_ = random.Random(seed)
    for number in range(count):
        yield f"generated {number}", random_case(random_, ["</s>", "<|im_end|>", "[INST]"]).request


def generated_texts(seed: int, count: int) -> Iterator[tuple[str, str]]:
    """Random texts, by name."""
    random_ = random.Random(seed)
    for number in range(count):
        yield f"generated text {number}", random_text(random_, ["</s>", "<|im_end|>", "[INST]"])


__all__ = ["BODIES", "STRANGE", "TEXTS", "generated_bodies", "generated_texts"]
