"""The protocol of a model's tokenizer: in threads of this process, or in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from service.index.base import TokenIds


class ModelTokenizer(Protocol):
    """Text to tokens and back, equal to the model's engine. Call it on the event loop; long work runs elsewhere.

    Methods raise PromptError, and TokenizerUnavailable.
    """

    vocabulary_size: int
    special_tokens_around: tuple[int, int]
    """The numbers of special tokens before and after a text."""

    async def encode(self, text: str, *, add_special_tokens: bool, salt: str | None = None) -> TokenIds:
        """Returns the tokens of a text; what is cached with one salt speeds up no text of another."""
        ...

    async def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens, including special ones."""
        ...

    async def strings(self, tokens: Sequence[int]) -> list[str | None]:
        """Returns each token's vocabulary entry; None for an unknown id."""
        ...

    async def reach(self, text: str, tokens: TokenIds, count: int) -> int:
        """Returns the length, in characters, of the prefix of `text` that the first `count` of its `tokens` cover."""
        ...

    def close(self) -> None:
        """Cancels the work in flight."""
        ...


class TokenizerUnavailable(Exception):
    """The tokenizer cannot work at the moment; the text has the reason."""
