"""Media in the messages of a chat: where the first one is, and the messages up to it."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from service.prompts.templates.conversation import are_text_only, medium_type

_MARK: Final = "\ue000kvcache-medium\ue000"
"""Stands where the first medium is. Private-use characters, which no tokenizer joins with a word."""


class UntilMedium(NamedTuple):
    """Messages whose first medium is replaced by `mark`; `where` is its path in the request."""

    messages: list[dict[str, Any]]
    mark: str
    where: str


def first_medium(messages: list[dict[str, Any]]) -> tuple[int, int] | None:
    """The numbers of the message and of the part of the first medium; None for a chat of text."""
    if are_text_only(messages):
        return None
    for number, message in enumerate(messages):
        if isinstance(content := message.get("content"), list):
            for at, part in enumerate(content):
                if medium_type(part) is not None:
                    return number, at
    return None


def until_first_medium(messages: list[dict[str, Any]]) -> UntilMedium:
    """The messages up to the one with the first medium, whose content begins with the mark.

    For templates of plain strings, vLLM puts placeholders before a message's text, so all of its text is left out.
    """
    place = first_medium(messages)
    assert place is not None  # noqa: S101 - callers have found one
    number, at = place
    last = {**messages[number], "content": _MARK}
    return UntilMedium(
        [*messages[:number], last, *_following(messages[number + 1 :])], _MARK, f"messages[{number}].content[{at}]"
    )


def _following(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Later messages, which may decide about the form of earlier ones; their media are left out."""
    found = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            content = [part for part in content if medium_type(part) is None] or ""
        found.append({**message, "content": content})
    return found
