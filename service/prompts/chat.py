"""The fields of a chat request that decide its text and its tokens."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from service.prompts.truncation import Side, Truncation

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Chat(msgspec.Struct, kw_only=True):
    """A chat request as vLLM's OpenAI server takes it (`ChatCompletionRequest`, vLLM 0.33), less what is for sampling.

    Unknown fields are ignored when a request is decoded into it.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: ReasoningEffort | None = None
    add_special_tokens: bool = False
    truncate_prompt_tokens: int | None = None
    """Tokens to keep; -1 keeps as many as the model takes."""
    truncation_side: Side | None = None
    """Where tokens are cut away; left if not given, so that the last ones stay."""

    @property
    def truncation(self) -> Truncation | None:
        """How the prompt is truncated; None if it is not."""
        keep = self.truncate_prompt_tokens
        return None if keep is None else Truncation(keep, self.truncation_side)
