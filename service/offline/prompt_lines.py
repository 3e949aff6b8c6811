"""Prompts to score, as JSON lines: text, token ids or a chat, when to ask, and what the engine itself said."""

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
_MOST_MALFORMED_LINES = 100


class PromptLine(msgspec.Struct):
    """One line. Exactly one of `prompt` (text or ids), `tokens` and `messages` (with what else a chat has) is there.

    Asked when the last message applied of each rank (`POD`, or `POD#dpN`) is the one that `before` numbers (-1: none
    yet), or after so many messages of the recording (`after`), or at its end. `pod` with `cached_tokens` or
    `leading_blocks`, or `blocks` by pod, is what the engine said, to compare with.
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
        """Whether it is asked when all of the recording was applied."""
        return self.before is None and self.after is None


@dataclass(frozen=True, slots=True)
class Numbered:
    """A line and its number, from 1; `chat` is the line once more, as a chat, if it is one."""

    number: int
    line: PromptLine
    chat: Chat | None


@dataclass(slots=True)
class PromptLines:
    """Iterates over the prompts of a file. Lines that cannot be read are counted, the first ones by number."""

    lines: Iterable[bytes]
    malformed: int = 0
    malformed_lines: list[int] = field(default_factory=list)

    def __iter__(self) -> Iterator[Numbered]:
        decode, decode_chat = msgspec.json.Decoder(PromptLine).decode, msgspec.json.Decoder(Chat).decode
        for number, text in enumerate(self.lines, 1):
            if not text.strip():
                continue
            try:
                line = decode(text)
                if sum(value is not None for value in (line.prompt, line.tokens, line.messages)) != 1:
                    raise msgspec.ValidationError("one of prompt, tokens and messages must be there")
                chat = decode_chat(text) if line.messages is not None else None
            except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
                self.malformed += 1
                if len(self.malformed_lines) < _MOST_MALFORMED_LINES:
                    self.malformed_lines.append(number)
                continue
            yield Numbered(number, line, chat)


async def read_prompt(numbered: Numbered, models: Models, default_model: str) -> Prompt:
    """The prompt as the index is asked for it. Raises what Models and Model raise."""
    line = numbered.line
    name = line.model or default_model
    if numbered.chat is not None:
        tokens = (await (await models.get(name)).render(numbered.chat)).tokens
    elif isinstance(line.prompt, str):
        tokens = await (await models.get(name)).tokenize(line.prompt, add_special_tokens=line.add_special_tokens)
    else:
        tokens = array("I", line.prompt or line.tokens or ())
    return Prompt(name, tokens, line.lora_name, line.cache_salt, line.pods)
