"""The rule for truncating prompts: `TokenizeParams` in vLLM 0.33."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from service.index.base import TokenIds
from service.prompts.errors import PromptError

Side: TypeAlias = Literal["left", "right"]


class Truncation(NamedTuple):
    """How many tokens a request keeps, and on which side it cuts; -1 keeps as many as the model takes."""

    keep: int
    side: Side | None = None

    @property
    def needs_model(self) -> bool:
        """Whether the model's length is the limit."""
        return self.keep == -1


def truncate(
    tokens: TokenIds, truncation: Truncation, max_model_length: int | None, special_tokens: tuple[int, int] = (0, 0)
) -> TokenIds:
    """Returns the tokens that are kept: the last ones unless `side` is "right". Raises PromptError for keep < -1.

    With -1, one token of `max_model_length` remains for the answer. If the request gives no side, vLLM lets the
    tokenizer truncate, which keeps all `special_tokens` (their numbers before and after the text).
    """
    keep: int | None = truncation.keep
    if truncation.needs_model:
        keep = None if max_model_length is None else max_model_length - 1
    elif truncation.keep < 0:
        raise PromptError("truncate_prompt_tokens must be -1 or more", "truncate_prompt_tokens")
    if keep is None or len(tokens) <= keep:
        return tokens
    if truncation.side == "right":
        return tokens[:keep]
    before, after = special_tokens
    if truncation.side == "left" or keep < before + after:
        return tokens[len(tokens) - keep :]
    return tokens[:before] + tokens[len(tokens) - keep + before :]
