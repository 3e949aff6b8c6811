"""The limits on one request: its body, its prompts and its chat. Every check raises ApiError 413."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from service.api.errors import ApiError
from service.api.json_shape import JsonShape
from service.api.requests import ChatRequest
from service.index.base import TokenIds
from service.prompts.templates.conversation import are_text_only

_TEXT_ONLY_FIELDS = 2
"""A message without lists has two fields: its role and its text."""


class RequestLimits(msgspec.Struct, frozen=True):
    """Each limit is the setting that its error message names; sizes in bytes, times in seconds."""

    max_body_bytes: int
    max_prompt_characters: int
    max_prompt_tokens: int
    max_prompts: int
    max_messages: int
    body_timeout: float
    min_body_rate: int

    @property
    def rate_window(self) -> float:
        """Seconds over which the rate of a body is measured."""
        return self.body_timeout / 6

    def check_body(self, size: int) -> None:
        """Checks the bytes of a body, as they are announced and as they arrive, inflated."""
        if size > self.max_body_bytes:
            raise ApiError(413, f"the body is larger than {self.max_body_bytes} bytes (MAX_BODY_BYTES)")

    def check_shape(self, shape: JsonShape) -> None:
        """Checks the numbers of values of a large body, before it is decoded."""
        for number, unit, limit in (
            (shape.containers, "objects and arrays", 10 * self.max_messages),
            (shape.members, "members of objects", 20 * self.max_messages),
            (shape.values, "values", self.max_prompt_tokens + 20 * self.max_messages),
        ):
            if number > limit:
                raise ApiError(413, f"the body holds more than {limit} {unit} (MAX_MESSAGES, MAX_PROMPT_TOKENS)")

    def check_number_of_prompts(self, number: int) -> None:
        """Checks the number of prompts, before they are converted."""
        _check("prompt", number, "prompts", self.max_prompts, "MAX_PROMPTS")

    def check_prompts(self, prompts: Sequence[str | TokenIds]) -> None:
        """Checks the characters and token ids of all prompts together."""
        characters = tokens = 0
        for prompt in prompts:
            if isinstance(prompt, str):
                characters += len(prompt)
            else:
                tokens += len(prompt)
        _check("prompt", characters, "characters", self.max_prompt_characters, "MAX_PROMPT_CHARACTERS")
        self.check_tokens("prompt", tokens)

    def check_tokens(self, param: str, number: int) -> None:
        """Checks the number of token ids in the field `param`."""
        _check(param, number, "token ids", self.max_prompt_tokens, "MAX_PROMPT_TOKENS")

    def check_chat(self, chat: ChatRequest) -> None:
        """Checks the numbers of messages, content parts, tool calls, tools, documents and variables."""
        _check("messages", len(chat.messages), "messages", self.max_messages, "MAX_MESSAGES")
        pieces = 0
        for message in () if are_text_only(chat.messages) else chat.messages:
            if type(message.get("content")) is not str or len(message) > _TEXT_ONLY_FIELDS:
                fields = (message.get(name) for name in ("content", "tool_calls", "tools"))
                pieces += sum(len(field) for field in fields if isinstance(field, list))
        for param, number, unit in (
            ("messages", pieces, "content parts and tool calls"),
            ("tools", len(chat.tools or ()), "tools"),
            ("documents", len(chat.documents or ()), "documents"),
            ("chat_template_kwargs", len(chat.chat_template_kwargs or ()), "variables"),
        ):
            _check(param, number, unit, self.max_messages, "MAX_MESSAGES")


def _check(param: str, number: int, unit: str, limit: int, setting: str) -> None:
    if number > limit:
        raise ApiError(413, f"`{param}` holds {number} {unit}, the limit is {limit} ({setting})", param=param)
