"""Prompts as JSON lines: text, token ids or a chat, the moment to score it, and the engine's own result."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from service.index.base import Prompt
from service.prompts.chat import Chat
from service.prompts.models.catalog import Models

_TokenId = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
_MAX_LISTED_LINES = 100


class PromptLine(msgspec.Struct):
    """One line, with exactly one of `prompt` (text or ids), `tokens` and `messages` (and other fields of a chat).

    Scored after the message of each rank (`POD` or `POD#dpN`) that `before` numbers (-1: none), after `after` messages
    of the recording, or at its end. The engine's own result is `pod` with `cached_tokens` or `leading_blocks`, or
    `blocks` by pod.
    """

    prompt: str | list[_TokenId] | None = None
    tokens: list[_TokenId] | None = None
    messages: list[dict[str, Any]] | None = None
    model: str | None = None
    lora_name: str | None = None
    cache_salt: str | None = None
    pods: list[str] | None = None
    add_special_tokens: bool = True
    before: dict[str, int] | None = None
    after: Annotated[int, Meta(ge=0)] | None = None
    pod: str | None = None
    cached_tokens: int | None = None
    leading_blocks: int | None = None
    blocks: dict[str, int] | None = None

    @property
    def at_end(self) -> bool:
        """Whether it is scored after the whole recording."""
        return self.before is None and self.after is None


@dataclass(frozen=True, slots=True)
class NumberedLine:
    """A line with its number, from 1, and the same line decoded as a chat, if it is one."""

    number: int
    line: PromptLine
    chat: Chat | None


@dataclass(slots=True)
class PromptLines:
    """Iterates over the prompts of a file; counts malformed lines and lists the numbers of the first."""

    lines: Iterable[bytes]
    malformed: int = 0
    malformed_lines: list[int] = field(default_factory=list)

    def __iter__(self) -> Iterator[NumberedLine]:
        decode, decode_chat = msgspec.json.Decoder(PromptLine).decode, msgspec.json.Decoder(Chat).decode
        for number, text in enumerate(self.lines, 1):
            if not text.strip():
                continue
            try:
                line = decode(text)
                if sum(value is not None for value in (line.prompt, line.tokens, line.messages)) != 1:
                    raise msgspec.ValidationError("exactly one of prompt, tokens and messages is required")
                chat = decode_chat(text) if line.messages is not None else None
            except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
                self.malformed += 1
                if len(self.malformed_lines) < _MAX_LISTED_LINES:
                    self.malformed_lines.append(number)
                continue
            yield NumberedLine(number, line, chat)


async def read_prompt(numbered: NumberedLine, models: Models, default_model: str) -> Prompt:
    """Converts the prompt to a query for the index. Raises the errors of Models and Model."""
    line = numbered.line
    name = line.model or default_model
    if numbered.chat is not None:
        tokens = (await (await models.get(name)).render(numbered.chat)).tokens
    elif isinstance(line.prompt, str):
        tokens = await (await models.get(name)).tokenize(line.prompt, add_special_tokens=line.add_special_tokens)
    else:
        tokens = array("I", line.prompt or line.tokens or ())
    return Prompt(name, tokens, line.lora_name, line.cache_salt, line.pods)
