"""A request as the router sees it."""

from __future__ import annotations

import msgspec

from service.index.base import Matches, Prompt


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A request to be routed. `tokens` is the length of its `prompt`, None if unknown; `matches` say who holds it."""

    model: str | None = None
    tokens: int | None = None
    prompt: Prompt | None = None
    matches: Matches = Matches()
    session: str | None = None
    is_streamed: bool = False
