"""What renders the chats of a model."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from service.index.base import TokenIds
from service.prompts.chat import Chat

TEMPLATE = "template"
HARMONY = "harmony"
MISTRAL = "mistral"
"""Names of renderers."""


class Rendered(NamedTuple):
    """A chat as the model receives it."""

    text: str
    tokens: TokenIds


class ChatRenderer(Protocol):
    """Renders chats for one model, equal to its engine. Its methods are for one thread."""

    name: str
    """As RENDERERS and the answers name it."""

    def render(self, chat: Chat) -> Rendered:
        """Gives the text and tokens of a chat; raises PromptError."""
        ...


class RendererMissing(Exception):
    """The package that renders the chats of a model is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"the package {package} is not installed")
        self.remedy = f"Install it: pip install 'kvcache[{extra}]'"
