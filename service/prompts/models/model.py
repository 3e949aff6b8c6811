"""The prompts of one model: chat to text, text to tokens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from service.contract.model_options import ModelOptions
from service.index.base import TokenIds
from service.prompts.chat import Chat
from service.prompts.errors import BadModelFile, ModelUnavailable, PromptError, PromptTooLong
from service.prompts.models.model_files import ModelFiles
from service.prompts.options import PromptOptions
from service.prompts.renderers.base import ENGINE, HARMONY, MISTRAL, TOKENIZER, Rendered, RendererMissing
from service.prompts.renderers.choice import reach_by_texts
from service.prompts.renderers.threaded import ModelRenderer
from service.prompts.templates.rendering import Renderer, RenderingUnavailable, TemplateSource
from service.prompts.templates.template_variables import cut_for_continuation, template_variables
from service.prompts.tokens.base import ModelTokenizer, TokenizerUnavailable
from service.prompts.truncation import Truncation, truncate
from service.tracing.base import step

_T = TypeVar("_T")


class Model:
    """Renders, tokenizes and detokenizes for one model. Call it on the event loop; long work runs elsewhere."""

    def __init__(
        self,
        name: str,
        files: ModelFiles,
        *,
        state: tuple[object, ...] = (),
        trusted: bool,
        options: PromptOptions,
        given: ModelOptions = ModelOptions(),  # noqa: B008 - immutable
        renderer: Renderer,
        tokenizer: ModelTokenizer,
        package: ModelRenderer | RendererMissing | None = None,
        served_length: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`trusted`: the model is one of the operator's; `given` are the options of its engines.

        `state` is that of the files before they were read. `package` renders chats instead of the chat template.
        `served_length` returns the maximum length, in tokens, that an engine gives the model; None if unknown. Raises
        BadModelFile.
        """
        self.name = name
        self.state = state
        self.trusted = trusted
        self._given = given
        self._given_template = _given_template(given.chat_template, options.models_dir)
        self._served_length = served_length
        self._files_length = files.max_length
        self._by_salt = options.token_cache_by_salt
        self._max_characters = options.max_prompt_characters
        self._takes_templates = options.trust_request_chat_template
        self._renderer = renderer
        self.renderer_name = files.renderer.name
        self._package = package
        self._templates = files.templates
        self._processor_template = files.processor_template
        self._special_tokens = files.special_tokens.variables
        self._tokenizer = tokenizer
        self.vocabulary_size = tokenizer.vocabulary_size

    async def render(self, chat: Chat) -> Rendered:
        """Returns the text and tokens that vLLM would produce for a chat; raises PromptError, ModelUnavailable."""
        if self.renderer_name == ENGINE:
            raise ModelUnavailable(
                self.name,
                "its engine encodes chats in code, not by a chat template",
                "Give the URL of its pod (PODS) or of a render server (RENDER_URL)",
            )
        chat = _as_started(chat, self._given)
        if (package := self._package_renderer()) is not None:
            with step("render"):
                return await self._render_by_package(package, chat)
        try:
            template = await self._renderer.template(self._template_source(chat))
            match self._given.chat_template_content_format:
                case "string" | "openai" as content_format:
                    template = replace(template, content_format=content_format)
            defaults = self._given.default_chat_template_kwargs
            variables = template_variables(chat, template, self._special_tokens, defaults)
            with step("render"):
                text = cut_for_continuation(await self._renderer.render(template, variables), chat, variables)
        except RenderingUnavailable as error:
            raise ModelUnavailable(self.name, f"its chat template cannot be rendered: {error}", "Try again") from None
        return Rendered(
            text,
            await self.tokenize(
                text,
                add_special_tokens=chat.add_special_tokens,
                truncation=chat.truncation,
                salt=chat.cache_salt,
            ),
        )

    @property
    def max_model_length(self) -> int | None:
        """Tokens of a prompt and its answer: as the operator says, else the engine, else the model's files."""
        return self._given.max_model_len or self._served_length() or self._files_length

    def renderer_of(self, *, chat: bool) -> str:
        """The renderer of chats, or else of texts."""
        return self.renderer_name if chat or self.renderer_name == MISTRAL else TOKENIZER

    def _package_renderer(self) -> ModelRenderer | None:
        if isinstance(self._package, RendererMissing):
            reason = f"its prompts are rendered by {self.renderer_name}: {self._package}"
            raise ModelUnavailable(self.name, reason, self._package.remedy)
        return self._package

    async def _render_by_package(self, package: ModelRenderer, chat: Chat) -> Rendered:
        rendered = await self._within_limits(package.render(chat))
        if len(rendered.text) > self._max_characters:
            raise PromptTooLong(self._max_characters, "messages", len(rendered.text))
        if chat.truncation is not None and self.renderer_name == MISTRAL:  # vLLM truncates no chats of gpt-oss
            tokens = truncate(rendered.tokens, chat.truncation, self.max_model_length)
            return Rendered(rendered.text, tokens)
        return rendered

    def close(self) -> None:
        """Cancels the tokenizing in flight."""
        self._tokenizer.close()

    async def prepare(self) -> None:
        """Compiles the default chat template, so that the first request does not wait for it."""
        source = self._given_template or self._templates.get("default")
        if source is not None:
            trusted = self.trusted or self._given_template is not None
            try:
                await self._renderer.template(TemplateSource(source, trusted))
            except (PromptError, RenderingUnavailable):
                return  # Requests that need the template get the error.

    async def tokenize(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        truncation: Truncation | None = None,
        salt: str | None = None,
        is_prompt: bool = True,
    ) -> TokenIds:
        """Returns the tokens of a text; raises PromptError for an unusable text, and ModelUnavailable.

        What is no prompt, such as an answer that holds one, may be longer than prompts.
        """
        if is_prompt and len(text) > self._max_characters:
            raise PromptTooLong(self._max_characters, "prompt", len(text))
        if self.renderer_name == MISTRAL:
            self._package_renderer()
        salt = salt if self._by_salt else None
        with step("tokenize"):
            tokens = await self._within_limits(
                self._tokenizer.encode(text, add_special_tokens=add_special_tokens, salt=salt)
            )
        if truncation is None:
            return tokens
        around = self._tokenizer.special_tokens_around if add_special_tokens else (0, 0)
        return truncate(tokens, truncation, self.max_model_length, around)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens, including special tokens; raises PromptError."""
        return await self._within_limits(self._tokenizer.decode(tokens))

    async def token_strings(self, tokens: Sequence[int]) -> list[str | None]:
        """Returns each token's vocabulary entry; None for an unknown id."""
        return await self._within_limits(self._tokenizer.strings(tokens))

    async def reach(self, text: str, tokens: TokenIds, count: int) -> int:
        """Returns the length, in characters, of the prefix of `text` that the first `count` of its `tokens` cover."""
        if self.renderer_name == HARMONY:
            return reach_by_texts(text, await self.detokenize(tokens), await self.detokenize(tokens[:count]))
        return await self._within_limits(self._tokenizer.reach(text, tokens, count))

    def _template_source(self, chat: Chat) -> TemplateSource:
        """The template that `resolve_chat_template` in vLLM 0.33 would select: the request's, or the model's own."""
        variables = chat.chat_template_kwargs or {}
        field, variable = chat.chat_template, variables.get("chat_template")
        if field is not None or variable is not None:
            if not self._takes_templates:
                raise PromptError(
                    "a request may not bring its own chat template: TRUST_REQUEST_CHAT_TEMPLATE is not set",
                    "chat_template",
                )
            given = field or variable
            if given and not isinstance(given, str):
                raise PromptError("chat_template must be a string", "chat_template")
            if given:
                named = self._templates.get(given)
                return TemplateSource(given, trusted=False) if named is None else TemplateSource(named, self.trusted)
        if self._given_template is not None:
            return TemplateSource(self._given_template, trusted=True)
        with_tools = chat.tools is not None or variables.get("tools") is not None
        source = self._templates.get("tool_use") if with_tools else self._processor_template
        source = source if source is not None else self._templates.get("default")
        if source is None and with_tools and self._processor_template is not None:
            raise PromptError(
                f"model {self.name!r} has no chat template for tools, only that of its processor", "tools"
            )
        if source is None:
            raise PromptError(f"model {self.name!r} has no chat template", "messages")
        return TemplateSource(source, self.trusted)

    async def _within_limits(self, work: Awaitable[_T]) -> _T:
        try:
            return await work
        except TokenizerUnavailable as error:
            raise ModelUnavailable(self.name, f"its tokenizer is not available: {error}", "Try again") from None


def _as_started(chat: Chat, given: ModelOptions) -> Chat:
    """Applies the flags of the engine that change a request: --reasoning-effort-map and --exclude-tools-…."""
    if (effort := chat.reasoning_effort) is not None and effort in given.reasoning_effort_map:
        chat = msgspec.structs.replace(chat, reasoning_effort=given.reasoning_effort_map[effort])
    if given.exclude_tools_when_tool_choice_none and chat.tool_choice == "none":
        chat = msgspec.structs.replace(chat, tools=None)
    return chat


def given_template_file(given: str | None, models_dir: Path) -> Path | None:
    """The file of --chat-template; None if it is the template itself."""
    return None if given is None or any(character in given for character in "{}\n") else models_dir / given


def _given_template(given: str | None, models_dir: Path) -> str | None:
    """The template of --chat-template. Raises BadModelFile for a file that cannot be read."""
    if (path := given_template_file(given, models_dir)) is None:
        return given
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadModelFile(path, error) from None
