"""Resolves a decoded request to the query for the index: the model and LoRA, the tokens, and the pods."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

import msgspec

from service.api.errors import ApiError
from service.api.limits import RequestLimits
from service.api.rendering import Origin, RenderedPrompt, Rendering
from service.api.requests import ChatRequest, PromptValue, ResponsesRequest, ScoreRequest
from service.index.base import Index, Medium, Prompt, TokenIds
from service.prompts.models.catalog import Models
from service.prompts.renderers.engine import media_of
from service.prompts.truncation import Truncation, truncate

if TYPE_CHECKING:
    from service.prompts.models.model import Model

TextOrTokens: TypeAlias = "str | TokenIds"


class Target(NamedTuple):
    """The model and LoRA of a request; `name` is the name in the request and in the answer."""

    name: str
    model: str
    lora_name: str | None


class ResolvedPrompt(msgspec.Struct, frozen=True):
    """One prompt, ready for the index; `text` and `model` are None for a prompt of token ids."""

    target: Target
    prompt: Prompt
    text: str | None = None
    model: Model | None = None
    origin: Origin = Origin()


class ResolvedChat(msgspec.Struct, frozen=True):
    """A rendered chat, ready for the index; `text` is known if it was asked for, `model` if it is loaded."""

    target: Target
    prompt: Prompt
    text: str | None
    model: Model | None
    origin: Origin


class PromptResolver:
    """Renders and tokenizes requests as the engine would.

    Every method raises ApiError, PromptError, ModelNotFound or ModelUnavailable.
    """

    def __init__(
        self,
        models: Models,
        index: Index,
        limits: RequestLimits,
        default_model: str,
        *,
        rendering: Rendering,
        base_of: Callable[[str], str | None] = lambda _: None,
        default_of: Callable[[str], str] = lambda configured: configured,
    ) -> None:
        """`base_of(name)` is the base model of a LoRA that a pod lists, or the name itself if it is a model's.

        `default_of(default_model)` is the model of requests that name none.
        """
        self._base_of = base_of
        self._default_of = default_of
        self.default_model = default_model
        self.limits = limits
        self._rendering = rendering
        self._models = models
        self._index = index

    async def model(self, name: str | None) -> Model:
        """Returns the loaded model of that name, or the base model of the LoRA of that name."""
        return await self._models.get(self._target(name).model)

    def model_name(self, name: str | None) -> str:
        """The name of the model that a request names, or of the base model of its LoRA."""
        return self._target(name).model

    async def chat(self, body: ChatRequest, *, with_text: bool = True) -> ResolvedChat:
        """Renders a chat; without `with_text`, its text may be left out."""
        self.limits.check_chat(body)
        target = self._target(body.model, body.lora_name)
        rendered = await self._rendering.chat(
            target.model, body, with_text=with_text, is_response=isinstance(body, ResponsesRequest)
        )
        prompt = self._prompt(target, rendered.tokens, body, rendered.media)
        return ResolvedChat(target, prompt, rendered.text, rendered.model, rendered.origin)

    async def text(self, model: str | None, text: str, *, add_special_tokens: bool) -> RenderedPrompt:
        """Tokenizes one text."""
        self.limits.check_prompts([text])
        return await self._rendering.text(self._target(model).model, text, add_special_tokens=add_special_tokens)

    async def tokens_of(self, model: str, text: str) -> int:
        """The number of tokens of a text without special tokens, as of an answer."""
        return len((await self._rendering.text(model, text, add_special_tokens=False, is_prompt=False)).tokens)

    async def prompts(self, body: ScoreRequest) -> list[ResolvedPrompt]:
        """Tokenizes the prompts of a request; prompts of token ids need no model."""
        if isinstance(body.prompt, array) and body.truncation is None:
            return [self._token_ids(body, body.prompt)]
        target = self._target(body.model, body.lora_name)
        if not isinstance(body.prompt, (str, array)) and not isinstance(body.prompt[0], int):
            self.limits.check_number_of_prompts(len(body.prompt))
        values = split_prompts(body.prompt)
        self.limits.check_prompts(values)
        media = _media(body, values)
        resolved = []
        for value in values:
            if isinstance(value, str):
                rendered = await self._rendering.text(
                    target.model,
                    value,
                    add_special_tokens=body.add_special_tokens,
                    truncation=body.truncation,
                    salt=body.cache_salt,
                )
                prompt = self._prompt(target, rendered.tokens, body)
                resolved.append(ResolvedPrompt(target, prompt, value, rendered.model, rendered.origin))
            else:
                tokens = value if body.truncation is None else await self._truncate(target, value, body.truncation)
                resolved.append(ResolvedPrompt(target, self._prompt(target, tokens, body, media)))
        return resolved

    def is_at_hand(self, name: str | None) -> bool:
        """Whether `prompts` waits for nothing if the prompts of a model, or of a LoRA's base model, are short."""
        return self._rendering.is_at_hand(self._target(name).model)

    def _token_ids(self, body: ScoreRequest, tokens: TokenIds) -> ResolvedPrompt:
        """The prompt of a request whose only prompt is these token ids, not truncated."""
        target = self._target(body.model, body.lora_name)
        self.limits.check_tokens("prompt", len(tokens))
        return ResolvedPrompt(target, self._prompt(target, tokens, body, _media(body, [tokens])))

    def _target(self, name: str | None, lora_name: str | None = None) -> Target:
        """The model of a name, or the base model if the name is a LoRA that an engine announced or lists.

        A model's name wins over a LoRA's.
        """
        requested = name or self._default_of(self.default_model)
        base = self._base_of_lora(requested)
        if base is None:
            return Target(requested, requested, lora_name)
        if lora_name not in (None, requested):
            raise ApiError(400, f"`model` is the LoRA {requested!r}, `lora_name` is another one", param="lora_name")
        return Target(requested, base, requested)

    def _base_of_lora(self, name: str) -> str | None:
        if name == self.default_model or self._index.serves(name):
            return None
        listed = self._base_of(name)
        return self._index.lora_model(name) if listed is None else listed if listed != name else None

    def _prompt(
        self, target: Target, tokens: TokenIds, body: ChatRequest | ScoreRequest, media: Sequence[Medium] = ()
    ) -> Prompt:
        return Prompt(
            target.model,
            tokens,
            target.lora_name,
            body.cache_salt,
            body.pods,
            media=media,
            skips_cache=body.skips_cache,
        )

    async def _truncate(self, target: Target, tokens: TokenIds, truncation: Truncation) -> TokenIds:
        """Truncates token ids; loads their model only if its length is the limit."""
        max_length = (await self._models.get(target.model)).max_model_length if truncation.needs_model else None
        return truncate(tokens, truncation, max_length)


def split_prompts(value: PromptValue | TokenIds) -> list[TextOrTokens]:
    """The prompts of a request: text, token ids, or a list of one of these kinds, as in /v1/completions."""
    if isinstance(value, (str, array)):
        return [value]
    if isinstance(value[0], int):
        return [_token_ids(value)]
    prompts = [_token_ids(prompt) if isinstance(prompt, list) else prompt for prompt in value]
    if len(set(map(type, prompts))) > 1:
        raise _mixed_kinds()
    if not all(len(prompt) for prompt in prompts if isinstance(prompt, array)):
        raise ApiError(400, "`prompt` must not hold an empty list", param="prompt")
    return cast("list[TextOrTokens]", prompts)


def _media(body: ScoreRequest, prompts: Sequence[TextOrTokens]) -> Sequence[Medium]:
    """The media among the token ids of a request."""
    if not body.features:
        return ()
    if len(prompts) != 1 or isinstance(prompts[0], str) or body.truncation is not None:
        message = "`features` needs one prompt of token ids that is not truncated"
        raise ApiError(400, message, param="features")
    media = media_of(body.features)
    if media and media[-1].offset + media[-1].length > len(prompts[0]):
        raise ApiError(400, "`features` places a medium after the last token", param="features")
    return media


def _token_ids(ids: list[str | int | list[int]] | list[int]) -> TokenIds:
    try:
        return array("I", cast("list[int]", ids))
    except TypeError:
        raise _mixed_kinds() from None


def _mixed_kinds() -> ApiError:
    return ApiError(400, "`prompt` mixes kinds: give text, token ids, or a list of either", param="prompt")
