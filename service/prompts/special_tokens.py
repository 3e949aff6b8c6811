"""The special tokens that a chat template sees as variables, and those that a tokenizer must know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def special_token_variables(config: Mapping[str, Any], legacy: Mapping[str, Any]) -> dict[str, str]:
    """Gives name → text, as `special_tokens_map` in transformers 5.23: the seven standard names and a model's own.

    `config` is tokenizer_config.json, `legacy` is special_tokens_map.json.
    """
    merged = _merged(config, legacy)
    found = {name: text for name in _NAMES if (text := _text(merged.get(name))) is not None}
    own = {name: value for name, value in merged.items() if name.endswith("_token") and name not in _NAMES}
    extra = merged.get("extra_special_tokens")
    if isinstance(extra, dict):
        own |= extra
    found |= {name: text for name, value in own.items() if (text := _text(value)) is not None}
    return found


def add_special_tokens(tokenizer: Tokenizer, config: Mapping[str, Any], legacy: Mapping[str, Any]) -> None:
    """Adds what the configuration names and tokenizer.json lacks, in the order of `TokenizersBackend.__init__`."""
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    missing = {
        token.content: token
        for token in _configured_tokens(config, legacy)
        if token.content and token.content not in known
    }
    if missing:
        tokenizer.add_tokens(list(missing.values()))


def _configured_tokens(config: Mapping[str, Any], legacy: Mapping[str, Any]) -> Iterator[AddedToken]:
    decoder = config.get("added_tokens_decoder") or {}
    for _, token in sorted(decoder.items(), key=lambda item: int(item[0])):
        yield _added_token(token, special=bool(token.get("special", False)))
    merged = _merged(config, legacy)
    for name in special_token_variables(config, legacy):
        value = merged.get(name, (merged.get("extra_special_tokens") or {}))
        value = value.get(name) if isinstance(value, dict) and "content" not in value else value
        yield _added_token(value, special=True)
    extra = merged.get("extra_special_tokens") or merged.get("additional_special_tokens")
    if isinstance(extra, list):
        for token in extra:
            if _text(token) is not None:
                yield _added_token(token, special=True)


def _merged(config: Mapping[str, Any], legacy: Mapping[str, Any]) -> dict[str, Any]:
    """special_tokens_map.json counts only where the configuration does not list its added tokens itself."""
    return {**config} if "added_tokens_decoder" in config else {**config, **legacy}


def _text(token: Any) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _added_token(token: Any, *, special: bool) -> AddedToken:
    flags = token if isinstance(token, dict) else {}
    return AddedToken(
        _text(token) or "",
        single_word=bool(flags.get("single_word", False)),
        lstrip=bool(flags.get("lstrip", False)),
        rstrip=bool(flags.get("rstrip", False)),
        normalized=bool(flags.get("normalized", not special)),
        special=special,
    )
