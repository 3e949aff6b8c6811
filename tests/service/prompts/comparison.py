"""Compares the rendering of a request with that of transformers."""

from __future__ import annotations

import msgspec
import pytest

from service.prompts.chat import Chat
from service.prompts.errors import PromptError
from service.prompts.models.model import Model
from tests.service.prompts.conversations import Case, Message
from tests.service.prompts.oracle import Oracle


def as_text(messages: list[Message]) -> list[Message]:
    """What vLLM hands to a template that takes content as a string."""
    return [{**message, "content": message["content"] or ""} for message in messages]


def as_parts(messages: list[Message]) -> list[Message]:
    """What vLLM hands to a template that walks the parts of a message's content."""
    return [
        message
        if message["role"] == "tool"
        else {
            **message,
            "content": [] if message["content"] is None else [{"type": "text", "text": message["content"]}],
        }
        for message in messages
    ]


def expected(oracle: Oracle, case: Case, *, parts: bool) -> str | None:
    """The oracle's text, or None where it refuses."""
    try:
        return oracle.render(as_parts(case.messages) if parts else as_text(case.messages), case.given)
    except Exception:
        return None


async def compare(model: Model, oracle: Oracle, case: Case, *, parts: bool = False) -> bool:
    """Holds a rendering against the oracle's; gives whether there was one."""
    text = expected(oracle, case, parts=parts)
    chat = msgspec.convert(case.request, Chat)
    if text is None:
        with pytest.raises(PromptError):
            await model.render(chat)
        return False
    rendered = await model.render(chat)
    assert rendered.text == text, case.name
    assert rendered.tokens.tolist() == oracle.tokens(text), case.name
    return True
