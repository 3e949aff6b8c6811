"""One model, as far as prompts go: chat to text, text to tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import lru_cache
from typing import NamedTuple, TypeVar

import jinja2

from service.index.base import TokenIds
from service.prompts.chat import Chat
from service.prompts.environment import chat_environment
from service.prompts.errors import PromptError
from service.prompts.model_files import ModelFiles
from service.prompts.templates import Rendering, finish, prepare
from service.prompts.tokenization import TextTokenizer
from service.settings import Settings

_T = TypeVar("_T")
_SHORT_TEXT = 2_000


class Rendered(NamedTuple):
    """A chat as the model gets it."""

    text: str
    tokens: TokenIds


class Model:
    """Renders, tokenizes and detokenizes for one model; long work is done in threads of `executor`."""

    def __init__(self, name: str, files: ModelFiles, settings: Settings, executor: Executor) -> None:
        """Raises BadModelFile. Blocks while it reads the vocabulary."""
        self.name = name
        self.templates = files.templates
        self._files = files
        self._settings = settings
        self._executor = executor
        self._tokenizer = TextTokenizer(files)
        self._special_tokens = files.special_token_variables
        self.vocabulary_size = self._tokenizer.vocabulary_size
        self.max_model_length = files.max_length

    async def render(self, chat: Chat) -> Rendered:
        """Gives the text and tokens that vLLM would make of a chat request; raises PromptError."""
        rendering = prepare(chat, self._template(chat), self._special_tokens)
        text = finish(await self._off_the_loop(lambda: self._render(rendering)), chat)
        tokens = await self.tokenize(text, add_special_tokens=chat.add_special_tokens)
        return Rendered(text, self._truncated(tokens, chat))

    async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> TokenIds:
        """Gives the tokens of a text; raises PromptError for one that is too long."""
        self._check_length(len(text))
        if len(text) <= _SHORT_TEXT:
            return self._tokenizer.encode(text, add_special_tokens)
        return await self._off_the_loop(lambda: self._tokenizer.encode(text, add_special_tokens))

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Gives the text of tokens, special tokens as they are spelled; raises PromptError."""
        return await self._off_the_loop(lambda: self._tokenizer.decode(tokens))

    async def token_strings(self, tokens: Sequence[int]) -> list[str | None]:
        """Gives each token as the vocabulary spells it, None for an id that it lacks."""
        return await self._off_the_loop(lambda: self._tokenizer.strings(tokens))

    async def reach(self, text: str, tokens: TokenIds, count: int) -> int:
        """Gives how many characters of `text`, from its start, the first `count` of its `tokens` cover."""
        return await self._off_the_loop(lambda: self._tokenizer.reach(text, tokens, count))

    def _template(self, chat: Chat) -> str:
        given = chat.chat_template
        if given is not None and not self._settings.trust_request_chat_template:
            raise PromptError(
                "a request may not bring its own chat_template here (TRUST_REQUEST_CHAT_TEMPLATE is false)",
                "chat_template",
            )
        if given is not None:
            return self.templates.get(given, given)
        source = self.templates.get("tool_use") if chat.tools is not None else None
        source = source if source is not None else self.templates.get("default")
        if source is None:
            raise PromptError(f"model {self.name!r} has no chat template", "messages")
        return source

    def _render(self, rendering: Rendering) -> str:
        limit = self._settings.max_prompt_characters
        deadline = time.monotonic() + self._settings.render_timeout
        pieces: list[str] = []
        length = 0
        try:
            for piece in _compiled(rendering.source).generate(rendering.variables):
                pieces.append(piece)
                length += len(piece)
                if length > limit or time.monotonic() > deadline:
                    raise PromptError("the chat template takes too long or renders too much", "messages")
        except PromptError:
            raise
        except Exception as error:
            raise PromptError(f"the chat template failed: {error}", "messages") from None
        return "".join(pieces)

    def _truncated(self, tokens: TokenIds, chat: Chat) -> TokenIds:
        keep = chat.truncate_prompt_tokens
        if keep == -1:
            keep = self.max_model_length
        if keep is None or len(tokens) <= keep:
            return tokens
        if chat.truncation_side == "right":
            return tokens[:keep]
        return tokens[len(tokens) - keep :]

    def _check_length(self, characters: int) -> None:
        if characters > (limit := self._settings.max_prompt_characters):
            raise PromptError(f"the prompt has {characters} characters, more than the {limit} allowed", "prompt")

    async def _off_the_loop(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


@lru_cache(maxsize=64)
def _compiled(source: str) -> jinja2.Template:
    return chat_environment().from_string(source)
