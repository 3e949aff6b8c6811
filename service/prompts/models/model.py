"""One model, as far as prompts go: chat to text, text to tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import NamedTuple, TypeVar

from service.contract.settings import Settings
from service.index.base import TokenIds
from service.prompts.chat import Chat
from service.prompts.errors import ModelUnavailable, PromptError
from service.prompts.models.model_files import ModelFiles
from service.prompts.templates.rendering import Renderer, RenderingUnavailable
from service.prompts.templates.template_variables import cut_for_continuation, template_variables
from service.prompts.tokens.token_cache import TokenCache
from service.prompts.tokens.tokenization import TextTokenizer

_T = TypeVar("_T")

_SHORT_TEXT = 8_000
"""Characters that are tokenized at once: about a millisecond's work."""


class Rendered(NamedTuple):
    """A chat as the model gets it."""

    text: str
    tokens: TokenIds


class Model:
    """Renders, tokenizes and detokenizes for one model. Its methods are for the event loop; long work leaves it."""

    def __init__(
        self,
        name: str,
        files: ModelFiles,
        *,
        settings: Settings,
        renderer: Renderer,
        cache: TokenCache,
        workers: Executor,
    ) -> None:
        """Raises BadModelFile. Blocks while it reads the vocabulary."""
        self.name = name
        self.max_model_length = files.max_length
        self._settings = settings
        self._renderer = renderer
        self._workers = workers
        self._templates = files.templates
        self._special_tokens = files.special_tokens.variables
        self._tokenizer = TextTokenizer(files, cache)
        self.vocabulary_size = self._tokenizer.vocabulary_size

    async def render(self, chat: Chat) -> Rendered:
        """Gives the text and tokens that vLLM would make of a chat request; raises PromptError, ModelUnavailable."""
        try:
            template = await self._renderer.template(self._template_source(chat))
            variables = template_variables(chat, template, self._special_tokens)
            text = cut_for_continuation(await self._renderer.render(template, variables), chat, variables)
        except RenderingUnavailable as error:
            raise ModelUnavailable(self.name, f"its chat template cannot be rendered: {error}", "Try again") from None
        if chat.truncate_prompt_tokens is None:
            return Rendered(text, await self.tokenize(text, add_special_tokens=chat.add_special_tokens))
        return Rendered(text, await self.tokenize_truncated(text, chat))

    def close(self) -> None:
        """Gives up the tokenizing that still runs."""
        self._tokenizer.close()

    async def prepare(self) -> None:
        """Looks into the chat template that most requests get, so that the first of them need not wait for it."""
        if (source := self._templates.get("default")) is not None:
            try:
                await self._renderer.template(source)
            except (PromptError, RenderingUnavailable):
                return  # Whoever needs the template is told.

    async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> TokenIds:
        """Gives the tokens of a text; raises PromptError for one that is too long or no text."""
        if len(text) > (most := self._settings.max_prompt_characters):
            raise PromptError(f"the prompt has {len(text)} characters, more than the {most} allowed", "prompt")
        prefix = self._tokenizer.find_prefix(text)
        encode = partial(self._tokenizer.encode, text, add_special_tokens=add_special_tokens, prefix=prefix)
        if len(text) - prefix.settled_chars <= _SHORT_TEXT:
            return encode()
        return await self._off_the_loop(encode)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Gives the text of tokens, special tokens as they are spelled; raises PromptError."""
        return await self._off_the_loop(lambda: self._tokenizer.decode(tokens))

    async def token_strings(self, tokens: Sequence[int]) -> list[str | None]:
        """Gives each token as the vocabulary spells it, None for an id that it lacks."""
        return await self._off_the_loop(lambda: self._tokenizer.strings(tokens))

    async def reach(self, text: str, tokens: TokenIds, count: int) -> int:
        """Gives how many characters of `text`, from its start, the first `count` of its `tokens` cover."""
        return await self._off_the_loop(lambda: self._tokenizer.reach(text, tokens, count))

    def _template_source(self, chat: Chat) -> str:
        """The template that `resolve_chat_template` in vLLM 0.33 would take, given or the model's own."""
        variables = chat.chat_template_kwargs or {}
        field, variable = chat.chat_template, variables.get("chat_template")
        if field is not None or variable is not None:
            if not self._settings.trust_request_chat_template:
                raise PromptError(
                    "a request may not bring its own chat template here: TRUST_REQUEST_CHAT_TEMPLATE is not set",
                    "chat_template",
                )
            given = field or variable
            if given and not isinstance(given, str):
                raise PromptError("chat_template must be a string", "chat_template")
            if given:
                return self._templates.get(given, given)
        with_tools = chat.tools is not None or variables.get("tools") is not None
        source = self._templates.get("tool_use") if with_tools else None
        source = source if source is not None else self._templates.get("default")
        if source is None:
            raise PromptError(f"model {self.name!r} has no chat template", "messages")
        return source

    async def tokenize_truncated(self, text: str, chat: Chat) -> TokenIds:
        """Keeps the last tokens, or the first where the request says so (`TokenizeParams`, vLLM 0.33).

        Where it says nothing, vLLM has the tokenizer truncate, which then keeps its special tokens whole.
        """
        keep = chat.truncate_prompt_tokens
        if keep == -1:
            keep = None if self.max_model_length is None else self.max_model_length - 1
        if keep is not None and keep < 0:
            raise PromptError("truncate_prompt_tokens must be -1 or more", "truncate_prompt_tokens")
        tokens = await self.tokenize(text, add_special_tokens=chat.add_special_tokens)
        if keep is None or len(tokens) <= keep:
            return tokens
        if chat.truncation_side == "right":
            return tokens[:keep]
        before, after = self._tokenizer.special_tokens_around if chat.add_special_tokens else (0, 0)
        if chat.truncation_side == "left" or keep < before + after:
            return tokens[len(tokens) - keep :]
        return tokens[:before] + tokens[len(tokens) - keep + before :]

    async def _off_the_loop(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)
