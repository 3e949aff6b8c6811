"""Rules for bodies beyond their types, as JSON Schema; handlers and renderers check them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_MESSAGES: Final[Mapping[str, Any]] = {
    "messages": {
        "type": "array",
        "minItems": 1,
        "items": {"type": "object", "required": ["role"], "properties": {"role": {"type": "string"}}},
    }
}
_STREAM_OPTIONS_NEED_STREAM: Final[Mapping[str, Any]] = {
    "if": {"properties": {"stream_options": {"type": "object"}}, "required": ["stream_options"]},
    "then": {"properties": {"stream": {"const": True}}, "required": ["stream"]},
}

PROPERTIES: Final[Mapping[str, Mapping[str, Any]]] = {
    "ChatRequest": _MESSAGES,
    "CompletionRequest": _MESSAGES,
    "TokenizeChatRequest": _MESSAGES,
    "SelectChat": _MESSAGES,
    "ExplainChat": _MESSAGES,
    "NewPod": {
        "url": {"type": "string", "pattern": "^https?://[^,]+$", "maxLength": 512},
    },
    "DetokenizeRequest": {
        "tokens": {"description": "each below the size of the model's vocabulary"},
    },
}
"""Additions to the properties of a type, by name."""

CONDITIONS: Final[Mapping[str, Mapping[str, Any]]] = {"CompletionRequest": _STREAM_OPTIONS_NEED_STREAM}
"""Conditions between the properties of a type."""


EVENTS: Final = "text/event-stream"


def event_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of one server-sent event, as OpenAPI 3.2 describes it; the last one holds [DONE]."""
    held = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    return {"type": "object", "required": ["data"], "properties": {"data": {"anyOf": [{"const": "[DONE]"}, held]}}}


def with_facts(components: dict[str, Any]) -> dict[str, Any]:
    """The schemas of all types, with the rules of this file."""
    for name, properties in PROPERTIES.items():
        for field, facts in properties.items():
            components[name]["properties"][field] = components[name]["properties"][field] | facts
    for name, condition in CONDITIONS.items():
        components[name] |= condition
    return components
