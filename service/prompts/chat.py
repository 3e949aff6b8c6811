"""The fields of a chat request that determine its text and its tokens."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from service.prompts.truncation import Side, Truncation

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Chat(msgspec.Struct, kw_only=True):
    """A chat request as vLLM's OpenAI server takes it (`ChatCompletionRequest`, vLLM 0.33), without sampling fields.

    Unknown fields are ignored during decoding.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    documents: list[dict[str, str]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: ReasoningEffort | None = None
    add_special_tokens: bool = False
    cache_salt: str | None = None
    truncate_prompt_tokens: int | None = None
    """Tokens to keep; -1 keeps as many as the model takes."""
    mm_processor_kwargs: dict[str, Any] | None = None
    """Only engines use it, for media."""
    media_io_kwargs: dict[str, Any] | None = None
    """Only engines use it, for media."""
    truncation_side: Side | None = None
    """The side at which tokens are cut off; left by default, which keeps the last ones."""

    @property
    def features(self) -> frozenset[str]:
        """The names of its optional parts that engines and their releases are known to render differently."""
        present = {
            "reasoning": self._is_in_messages("reasoning"),
            "reasoning_content": self._is_in_messages("reasoning_content"),
            "tools": self.tools is not None or self._is_in_messages("tool_calls"),
            "continued message": self.continue_final_message or not self.add_generation_prompt,
            "reasoning_effort": self.reasoning_effort is not None,
            "chat_template_kwargs": bool(self.chat_template_kwargs),
        }
        return frozenset(name for name, is_present in present.items() if is_present)

    def _is_in_messages(self, field: str) -> bool:
        return any(message.get(field) for message in self.messages)

    @property
    def truncation(self) -> Truncation | None:
        """How the prompt is truncated; None if it is not truncated."""
        keep = self.truncate_prompt_tokens
        return None if keep is None else Truncation(keep, self.truncation_side)
