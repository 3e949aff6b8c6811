"""Chooses a model's renderer, and shares the loaded package renderers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from service.index.base import TokenIds
from service.prompts.chat import Chat
from service.prompts.errors import BadModelFile, PromptError
from service.prompts.renderers.base import HARMONY, MISTRAL, TEMPLATE, Rendered
from service.prompts.renderers.harmony import HarmonyRenderer
from service.prompts.renderers.mistral import MistralRenderer, mistral_tokenizer_file
from service.prompts.tokens.token_cache import TokenCache


class RendererChoice(NamedTuple):
    """The name of a renderer, and the file that it reads, if any."""

    name: str
    file: Path | None = None


def choose_renderer(folder: Path, model_config: Mapping[str, Any], chosen: str | None = None) -> RendererChoice:
    """Returns the renderer that vLLM 0.32 uses for the model in a folder with this config.json.

    `chosen` is the operator's choice. Raises BadModelFile if it needs a file that is missing.
    """
    if chosen == MISTRAL:
        if (file := mistral_tokenizer_file(folder, always=True)) is None:
            raise BadModelFile(folder / "tekken.json", "the renderer mistral needs it")
        return RendererChoice(MISTRAL, file)
    if chosen in {TEMPLATE, HARMONY}:
        return RendererChoice(chosen)
    if model_config.get("model_type") == "gpt_oss":
        return RendererChoice(HARMONY)
    if (file := mistral_tokenizer_file(folder)) is not None:
        return RendererChoice(MISTRAL, file)
    return RendererChoice(TEMPLATE)


class PackageRenderer:
    """A package's renderer behind a lock: one thread uses it at a time."""

    def __init__(self, choice: RendererChoice, cache: TokenCache) -> None:
        """Raises RendererMissing. Blocks while it loads a vocabulary."""
        self._lock = Lock()
        self._mistral = MistralRenderer(choice.file, cache) if choice.file is not None else None
        self._chats = self._mistral or HarmonyRenderer(cache)

    def render(self, chat: Chat) -> Rendered:
        """Returns the text and tokens of a chat; raises PromptError."""
        with self._lock:
            return self._chats.render(chat)

    def encode(self, text: str, *, add_special_tokens: bool) -> TokenIds:
        """Returns the tokens of a text; raises PromptError."""
        if self._mistral is None:
            raise PromptError("this renderer does not tokenize texts")
        with self._lock:
            return self._mistral.encode(text, add_special_tokens=add_special_tokens)
