"""The special tokens that a chat template sees as variables, and those to add to a tokenizer.

Follows `PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend.__init__` in transformers 5.20.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class SpecialTokens:
    """Special tokens in tokenizer_config.json and the older special_tokens_map.json."""

    def __init__(self, config: Mapping[str, Any], legacy: Mapping[str, Any]) -> None:
        # The older file counts only if the configuration does not list its added tokens itself.
        merged = dict(config) if "added_tokens_decoder" in config else {**config, **legacy}
        self._listed = merged.get("added_tokens_decoder") or {}
        extra = merged.get("extra_special_tokens") or merged.get("additional_special_tokens") or []
        own = {name: value for name, value in merged.items() if name.endswith("_token") and name not in _NAMES}
        if isinstance(extra, dict):
            own |= extra
        named = {name: merged.get(name) for name in _NAMES} | own
        self._named = {name: value for name, value in named.items() if _text(value) is not None}
        self._extra = [value for value in extra if _text(value) is not None] if isinstance(extra, list) else []

    @property
    def variables(self) -> dict[str, str]:
        """The text of each special token by name, as chat templates use it."""
        return {name: _text(value) or "" for name, value in self._named.items()}

    def add_to(self, tokenizer: Tokenizer) -> None:
        """Adds the missing tokens to the tokenizer, and corrects differing flags of existing ones."""
        known = tokenizer.get_added_tokens_decoder().values()
        as_listed = {repr(token) for token in known}
        missing = [token for token in self._listed_tokens() if repr(token) not in as_listed]
        contents = {token.content for token in (*known, *missing)}
        for value in (*self._named.values(), *self._extra):
            token = _added_token(value)
            if token.content not in contents:
                contents.add(token.content)
                missing.append(token)
        special = {_text(value) for value in self._named.values()}
        for token in missing:
            token.special = token.special or token.content in special
        if missing:
            tokenizer.add_tokens(missing)

    def _listed_tokens(self) -> Iterator[AddedToken]:
        for _, token in sorted(self._listed.items(), key=lambda item: int(item[0])):
            yield AddedToken(**{flag: value for flag, value in token.items() if flag != "__type"})


def _text(token: Any) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _added_token(token: Any) -> AddedToken:
    if not isinstance(token, dict):
        return AddedToken(token, special=True)
    return AddedToken(**{"special": True, **{flag: value for flag, value in token.items() if flag != "__type"}})
