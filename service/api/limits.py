"""The limits on one request: its body, its prompts and its chat. Every check raises ApiError 413."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.api.errors import ApiError
from service.api.requests import ChatRequest
from service.index.base import TokenIds
from service.prompts.templates.conversation import are_text_only

_TEXT_ONLY_FIELDS = 2
"""Fields of a message that has no lists: its role and its text."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Each limit is the setting whose name its message gives; sizes in bytes, times in seconds."""

    max_body_bytes: int
    max_prompt_characters: int
    max_prompt_tokens: int
    max_prompts: int
    max_messages: int
    max_requests_in_flight: int
    body_timeout: float

    def body_too_large(self) -> ApiError:
        """The error for a body of more than MAX_BODY_BYTES."""
        return ApiError(413, f"the body is larger than {self.max_body_bytes} bytes (MAX_BODY_BYTES)")

    def check_prompts(self, prompts: Sequence[str | TokenIds]) -> None:
        """Checks the number of prompts, and their characters and token ids together."""
        _check("prompt", len(prompts), "prompts", self.max_prompts, "MAX_PROMPTS")
        characters = sum(len(prompt) for prompt in prompts if isinstance(prompt, str))
        _check("prompt", characters, "characters", self.max_prompt_characters, "MAX_PROMPT_CHARACTERS")
        self.check_tokens("prompt", sum(len(prompt) for prompt in prompts if not isinstance(prompt, str)))

    def check_tokens(self, param: str, number: int) -> None:
        """Checks the number of token ids in the field `param`."""
        _check(param, number, "token ids", self.max_prompt_tokens, "MAX_PROMPT_TOKENS")

    def check_chat(self, chat: ChatRequest) -> None:
        """Checks the number of messages, of their content parts and tool calls, of tools, and of template variables."""
        pieces = 0
        for message in () if are_text_only(chat.messages) else chat.messages:
            if type(message.get("content")) is not str or len(message) > _TEXT_ONLY_FIELDS:
                fields = (message.get(name) for name in ("content", "tool_calls", "tools"))
                pieces += sum(len(field) for field in fields if isinstance(field, list))
        for param, number, unit in (
            ("messages", len(chat.messages), "messages"),
            ("messages", pieces, "content parts and tool calls"),
            ("tools", len(chat.tools or ()), "tools"),
            ("chat_template_kwargs", len(chat.chat_template_kwargs or ()), "variables"),
        ):
            _check(param, number, unit, self.max_messages, "MAX_MESSAGES")


def _check(param: str, number: int, unit: str, limit: int, setting: str) -> None:
    if number > limit:
        raise ApiError(413, f"`{param}` holds {number} {unit}, the limit is {limit} ({setting})", param=param)
