"""Decides who renders a prompt: our own renderers, or the engine itself where ours are known to differ or cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec

from service.fleet.parity import Agreement, Verdict
from service.index.base import Medium, TokenIds
from service.prompts.chat import Chat
from service.prompts.errors import ModelNotFound, ModelUnavailable, PromptError
from service.prompts.models.catalog import Models
from service.prompts.renderers.base import CLIENT, ENGINE, HARMONY, TEMPLATE
from service.prompts.renderers.engine import EngineRenderer
from service.prompts.renderers.engine_api import EngineApi
from service.prompts.templates.media import first_medium, until_first_medium
from service.prompts.truncation import Truncation, truncate
from service.tracing.base import step

if TYPE_CHECKING:
    from service.prompts.models.model import Model

EnginesOf: TypeAlias = Callable[[str], Sequence[EngineApi]]
AgreementOf: TypeAlias = Callable[..., Agreement]


class Origin(NamedTuple):
    """The renderer of tokens, and the verdict on their parity with the engines' tokens.

    The verdict is None for token ids of the client. `known` is the number of tokens if only the first ones are known.
    """

    renderer: str = CLIENT
    parity: Verdict | None = None
    known: int | None = None


class RenderedPrompt(NamedTuple):
    """A prompt in tokens. `text` and `model` are None if only the engine knows them."""

    tokens: TokenIds
    text: str | None
    model: Model | None
    origin: Origin
    media: Sequence[Medium] = ()


class Rendering:
    """Renders chats and texts. Methods raise PromptError, ModelNotFound and ModelUnavailable."""

    def __init__(
        self,
        models: Models,
        engine: EngineRenderer,
        engines_of: EnginesOf = lambda _: (),
        agreement_of: AgreementOf = lambda _, **__: Agreement(Verdict.UNKNOWN, Verdict.UNKNOWN),
        renderers: Mapping[str, str] | None = None,
    ) -> None:
        """`engines_of(model)` are the engines to ask, `agreement_of(model, chat=…)` tells whether tokens agree.

        `renderers` are the operator's choices by model.
        """
        self._models = models
        self._engine = engine
        self._engines_of = engines_of
        self._agreement_of = agreement_of
        self._renderers = dict(renderers or {})

    async def chat(self, model: str, chat: Chat, *, with_text: bool, is_response: bool = False) -> RenderedPrompt:
        """Renders a chat; without `with_text`, the text may be left out.

        `is_response` marks a request of /v1/responses, for which vLLM's Harmony renders other messages.
        """
        medium, agreement = first_medium(chat.messages), self._agreement_on(model, chat)
        if self._asks_engine(model, agreement) or (medium is not None and self._engines_of(model)):
            try:
                return await self._by_engine(model, chat, agreement, with_text=with_text)
            except ModelUnavailable:
                if medium is None or agreement.verdict is Verdict.DIFFERS:
                    raise
        try:
            loaded = await self._models.get(model)
            if is_response and loaded.renderer_name == HARMONY:
                raise PromptError("how gpt-oss renders requests of /v1/responses is not known here", "input")
            if medium is not None:
                return await self._before_media(loaded, chat, agreement)
            rendered = await loaded.render(chat)
        except (ModelNotFound, ModelUnavailable):
            if self._renderers.get(model) is not None or not self._engines_of(model):
                raise
            return await self._by_engine(model, chat, agreement, with_text=with_text)
        origin = Origin(loaded.renderer_of(chat=True), agreement.verdict)
        return RenderedPrompt(rendered.tokens, rendered.text, loaded, origin)

    async def text(
        self,
        model: str,
        text: str,
        *,
        add_special_tokens: bool,
        truncation: Truncation | None = None,
        salt: str | None = None,
        is_prompt: bool = True,
    ) -> RenderedPrompt:
        """Tokenizes a text; `salt` is the request's. What is no prompt may be longer."""
        agreement = self._agreement_of(model, chat=False)
        if not self._asks_engine(model, agreement):
            try:
                loaded = await self._models.get(model)
                tokens = await loaded.tokenize(
                    text,
                    add_special_tokens=add_special_tokens,
                    truncation=truncation,
                    salt=salt,
                    is_prompt=is_prompt,
                )
            except (ModelNotFound, ModelUnavailable):
                if self._renderers.get(model) is not None or not self._engines_of(model):
                    raise
            else:
                return RenderedPrompt(tokens, text, loaded, Origin(loaded.renderer_of(chat=False), agreement.verdict))
        found = await self._engine.text(
            self._engines_of(model), model, text, add_special_tokens=add_special_tokens, truncation=truncation
        )
        return RenderedPrompt(found.tokens, text, self._models.find(model), Origin(ENGINE, agreement.engines))

    def is_at_hand(self, model: str) -> bool:
        """Whether short texts are tokenized without waiting: here, by a model that is loaded and the operator's."""
        loaded = self._models.find(model)
        if loaded is None or not loaded.trusted:
            return False
        return not self._asks_engine(model, self._agreement_of(model, chat=False))

    def _agreement_on(self, model: str, chat: Chat) -> Agreement:
        """The agreement on a chat: some chats may differ because of features that this one has not."""
        found = self._agreement_of(model, chat=True)
        if found.verdict is not Verdict.DIFFERS:
            return found
        return self._agreement_of(model, chat=True, features=chat.features)

    def _asks_engine(self, model: str, agreement: Agreement) -> bool:
        """The operator decides first, then the parity."""
        chosen = self._renderers.get(model)
        if chosen is not None:
            return chosen == ENGINE
        return agreement.verdict is Verdict.DIFFERS and bool(self._engines_of(model))

    async def _by_engine(self, model: str, chat: Chat, agreement: Agreement, *, with_text: bool) -> RenderedPrompt:
        engines = self._engines_of(model)
        loaded, text = self._models.find(model), None
        # A model that is not loaded may be gpt-oss, whose chats /tokenize renders differently from the engine.
        is_template = loaded is not None and loaded.renderer_name == TEMPLATE
        may_tokenize = is_template and first_medium(chat.messages) is None
        with step("render by an engine"):
            tokens, media = await self._engine.chat(engines, model, chat, may_tokenize=may_tokenize)
        if with_text:
            text = await engines[0].text_of(model, tokens)
            if text is None and loaded is not None:
                text = await loaded.detokenize(tokens)
        return RenderedPrompt(tokens, text, loaded, Origin(ENGINE, agreement.engines), media)

    async def _before_media(self, model: Model, chat: Chat, agreement: Agreement) -> RenderedPrompt:
        """The tokens before the first medium: nobody here knows those of the medium."""
        cut = until_first_medium(chat.messages)
        try:
            rendered = await model.render(
                msgspec.structs.replace(chat, messages=cut.messages, truncate_prompt_tokens=None)
            )
        except PromptError as error:
            raise PromptError(f"{error.message} ({cut.where} is a medium)", error.param) from None
        text, found, _ = rendered.text.partition(cut.mark)
        if not found:
            text = ""
        tokens = await model.tokenize(text, add_special_tokens=chat.add_special_tokens, salt=chat.cache_salt)
        # The text that follows may change the last token.
        tokens = tokens[: max(0, len(tokens) - 1)]
        if (truncation := chat.truncation) is not None:
            # Where the prompt is cut on the left, only the engine knows where it begins.
            tokens = truncate(tokens, truncation, model.max_model_length) if truncation.side == "right" else tokens[:0]
        origin = Origin(model.renderer_of(chat=True), agreement.verdict, len(tokens))
        return RenderedPrompt(tokens, text, model, origin)
