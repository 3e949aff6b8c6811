"""The operator's settings for prompts, and the division of the cache memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from service.contract.model_options import ModelOptions, read_model_options
from service.contract.settings import Settings, SettingsError

ANY_MODEL = "*"


class CacheBudget(NamedTuple):
    """The shares of TOKEN_CACHE_BYTES, in bytes."""

    tokens: int
    chat_bodies: int
    block_keys: int

    @classmethod
    def of(cls, total: int, *, compiled: bool, by_salt: bool = False) -> CacheBudget:
        """Three quarters for tokens, a quarter for the decoded body or the block keys of a chat's last turn.

        With compiled loops, decoded bodies: computing block keys is faster than looking them up. Without, block keys:
        bodies cannot be compared fast. Kept apart by salt, tokens alone: the other caches know no salts.
        """
        if by_salt:
            return cls(total, 0, 0)
        quarter = total // 4
        return cls(total - quarter, quarter if compiled else 0, 0 if compiled else quarter)


class PromptOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Each field is the setting of the same name."""

    model_name: str = "builtin/demo"
    models: tuple[str, ...] = ()
    """Further models that requests may name; ANY_MODEL allows all."""
    models_dir: Path = Path("/models")
    model_aliases: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Names in requests, and the names or folders of their tokenizers."""
    revisions: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Revisions on the hub by model; others are the latest of the main branch."""
    renderers: Mapping[str, str] = msgspec.field(default_factory=dict)
    """The operator's renderer of a model."""
    model_options: Mapping[str, ModelOptions] = msgspec.field(default_factory=dict)
    """The flags that the engines of a model were started with."""
    max_models: int = 8
    hub_timeout: float = 10.0
    hub_retry_after: float = 30.0
    trust_request_chat_template: bool = False
    token_cache_by_salt: bool = False
    token_cache_bytes: int = 48 << 20
    """The tokens' share of TOKEN_CACHE_BYTES."""
    render_timeout: float = 5.0
    max_prompt_characters: int = 4_000_000

    @classmethod
    def of(cls, settings: Settings, budget: CacheBudget) -> PromptOptions:
        """Raises SettingsError for an unusable file of MODEL_OPTIONS."""
        try:
            options = read_model_options(settings.model_options)
        except (OSError, ValueError) as error:
            raise SettingsError(f"MODEL_OPTIONS={settings.model_options}: {error}") from None
        tokenizers = {name: one.tokenizer for name, one in options.items() if one.tokenizer is not None}
        renderers = {name: one.renderer for name, one in options.items() if one.renderer is not None}
        revisions = {name: one.revision for name, one in options.items() if one.revision is not None}
        revisions |= {name or settings.model_name: revision for name, revision in settings.revision}
        return cls(
            model_name=settings.model_name,
            models=settings.models,
            models_dir=settings.models_dir,
            model_aliases={**tokenizers, **dict(settings.model_aliases)},
            revisions=revisions,
            renderers={**renderers, **dict(settings.renderers)},
            model_options=options,
            max_models=settings.max_models,
            hub_timeout=settings.hub_timeout,
            hub_retry_after=settings.hub_retry_after,
            trust_request_chat_template=settings.trust_request_chat_template,
            token_cache_by_salt=settings.token_cache_by_salt,
            token_cache_bytes=budget.tokens,
            render_timeout=settings.render_timeout,
            max_prompt_characters=settings.max_prompt_characters,
        )
