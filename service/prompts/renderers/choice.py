"""Chooses a model's renderer, and loads those of packages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from service.index.base import TokenIds
from service.prompts.chat import Chat
from service.prompts.errors import BadModelFile
from service.prompts.renderers.base import ENGINE, HARMONY, MISTRAL, TEMPLATE, ChatRenderer, Rendered
from service.prompts.renderers.harmony import HarmonyRenderer
from service.prompts.renderers.mistral import MistralRenderer, mistral_tokenizer_file
from service.prompts.tokens.token_cache import TokenCache

_ENCODED_BY_ENGINES = frozenset(
    {
        "DeepseekV32ForCausalLM",
        "DeepseekV4ForCausalLM",
        "DeepseekV4ForConditionalGeneration",
        "DeepseekV41ForCausalLM",
        "InklingForCausalLM",
        "InklingForConditionalGeneration",
        "KimiK3ForConditionalGeneration",
        "MoonshotKimiaForCausalLM",
    }
)
"""Architectures whose chats vLLM 0.32 encodes in code, whatever chat template they have (`config/model.py`)."""


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
    architectures = model_config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    if isinstance(first, str) and first in _ENCODED_BY_ENGINES:
        return RendererChoice(ENGINE)
    if (file := mistral_tokenizer_file(folder)) is not None:
        return RendererChoice(MISTRAL, file)
    return RendererChoice(TEMPLATE)


class PackageRenderer:
    """A package's renderer of chats, behind a lock: one thread uses it at a time."""

    def __init__(self, renderer: ChatRenderer) -> None:
        self._lock = Lock()
        self._renderer = renderer

    def render(self, chat: Chat) -> Rendered:
        """Returns the text and tokens of a chat; raises PromptError."""
        with self._lock:
            return self._renderer.render(chat)


class PackageTokenizer(PackageRenderer):
    """Mistral's renderer, which also tokenizes texts."""

    special_tokens_around = (1, 0)

    def __init__(self, file: Path, cache: TokenCache) -> None:
        """Raises RendererMissing and BadModelFile. Blocks while it loads the vocabulary."""
        self._mistral = MistralRenderer(file, cache)
        super().__init__(self._mistral)
        self.vocabulary_size = self._mistral.vocabulary_size

    def encode(self, text: str, *, add_special_tokens: bool, salt: str | None = None) -> TokenIds:
        """Returns the tokens of a text; raises PromptError. `salt` changes nothing: the cache is off with salts."""
        with self._lock:
            return self._mistral.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens, including special ones."""
        with self._lock:
            return self._mistral.decode(tokens)

    def strings(self, tokens: Sequence[int]) -> list[str | None]:
        """Returns each token's vocabulary entry; None for an unknown id."""
        with self._lock:
            return self._mistral.strings(tokens)

    def reach(self, text: str, tokens: TokenIds, count: int) -> int:
        """Returns the length, in characters, of the prefix of `text` that the first `count` of its `tokens` cover."""
        return reach_by_texts(text, self.decode(tokens), self.decode(tokens[:count]))


def reach_by_texts(text: str, decoded: str, prefix: str) -> int:
    """The reach of a prefix of tokens, by the text of all tokens and of the prefix.

    For packages, which tokenize special tokens in a text differently from tokenizer.json, but decode equally.
    """
    special = len(decoded) - len(text) if decoded.endswith(text) else 0
    return min(len(text), max(0, len(prefix) - special))


def load_package(choice: RendererChoice, cache: TokenCache) -> PackageRenderer:
    """Raises RendererMissing and BadModelFile. Blocks while it loads a vocabulary."""
    return PackageTokenizer(choice.file, cache) if choice.file is not None else PackageRenderer(HarmonyRenderer(cache))
