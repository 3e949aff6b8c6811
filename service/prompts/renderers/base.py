"""The protocol of a chat renderer."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from service.index.base import TokenIds
from service.prompts.chat import Chat

TEMPLATE = "template"
HARMONY = "harmony"
MISTRAL = "mistral"
ENGINE = "engine"
TOKENIZER = "tokenizer"
CLIENT = "client"
"""Names of renderers. TOKENIZER renders plain texts, CLIENT names token ids in a request."""


class Rendered(NamedTuple):
    """A chat in the form that the model receives."""

    text: str
    tokens: TokenIds


class ChatRenderer(Protocol):
    """Renders chats for one model, equal to its engine. Not thread-safe."""

    name: str
    """Its name in answers."""

    def render(self, chat: Chat) -> Rendered:
        """Returns the text and tokens of a chat; raises PromptError."""
        ...


class RendererMissing(Exception):
    """The package that renders the model's chats is not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(f"the package {package} is not installed")
        self.remedy = f"Install it: pip install {package}"
