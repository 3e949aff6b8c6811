r"""Whether a tokenizer's pre-tokenizer always cuts at a space between two ASCII letters.

Why such a place p is safe to cut at, if each alternative of the splitting pattern is one of `_ALTERNATIVES`: none of
them matches a letter and the space after it, so no match reaches over p; the letter before p is matched by something,
so a match ends at p; none looks back, so what follows p matches as if the text started there; and the only one that
looks ahead asks for `(?!\S)`, to which the space at p gives the same answer as the end of a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

WORD_BREAK = re.compile(r"[A-Za-z](?= [A-Za-z])")
"""Matches the letter before a safe place."""

_LETTERS = (
    r" ?\p{L}+",
    r"[^\r\n\p{L}\p{N}]?\p{L}+",
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
)
"""Alternatives that match a lone lower-case letter, and with the next ones any letter."""

_CAPITALS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
)

_OTHERS = (
    "'s",
    "'t",
    "'re",
    "'ve",
    "'m",
    "'ll",
    "'d",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"'(?i:[sdmt]|ll|ve|re)",
    r" ?\p{N}+",
    r"\p{N}",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
    r" ?[\p{P}\p{S}]+[\r\n]*",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
    r"\s*[\r\n]+",
    r"\s*[\r\n]",
    r"\s+(?!\S)",
    r"\s+",
)
_ALTERNATIVES = frozenset((*_LETTERS, *_CAPITALS, *_OTHERS))

_APART = frozenset({r"\p{N}", r"\p{N}{1,3}", r"\p{N}+", "[一-龥\u3040-ゟ゠-ヿ]+"})
"""Patterns that match neither letters of ASCII nor spaces, and look at nothing but what they match."""

Step = Literal["cuts", "apart", "unknown"]


def cuts_at_word_breaks(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    """Whether the pre-tokenizer, as tokenizer.json describes it, has a safe place at each WORD_BREAK."""
    for step in _steps(pre_tokenizer):
        kind = _kind(step)
        if kind != "apart":
            return kind == "cuts"
    return False


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if pre_tokenizer is None:
        return
    if pre_tokenizer["type"] == "Sequence":
        for step in pre_tokenizer["pretokenizers"]:
            yield from _steps(step)
    else:
        yield pre_tokenizer


def _kind(step: Mapping[str, Any]) -> Step:
    """Whether a step cuts at each break, or leaves letters and the spaces between them alone for the next to see."""
    match step:
        case {"type": "Digits"} | {"type": "Punctuation", "behavior": "Isolated"}:
            return "apart"
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": uses_regex}:
            return "cuts" if uses_regex else "apart"
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"} if pattern in _APART:
            return "apart"
        case {"type": "Whitespace" | "WhitespaceSplit" | "BertPreTokenizer"} | {"type": "Metaspace", "split": True}:
            return "cuts"
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}:
            # Both keep what the pattern matches as words; the second drops what it does not match.
            keeps_words = (behavior, invert) in (("Isolated", False), ("Removed", True))
            return "cuts" if keeps_words and _is_known(pattern) else "unknown"
        case _:
            return "unknown"


def _is_known(pattern: str) -> bool:
    alternatives = _alternatives(pattern.replace("\r", r"\r").replace("\n", r"\n"))
    small = any(alternative in _LETTERS for alternative in alternatives)
    return small and _covers_capitals(alternatives) and all(part in _ALTERNATIVES for part in alternatives)


def _covers_capitals(alternatives: Sequence[str]) -> bool:
    return any(part in _CAPITALS or part in _LETTERS[:4] for part in alternatives)


def _alternatives(pattern: str) -> list[str]:
    """Cuts a pattern at the `|` that stand in no group and no class."""
    parts, depth, in_class, escaped = [""], 0, False, False
    for character in pattern:
        if character == "|" and not (depth or in_class or escaped):
            parts.append("")
            continue
        parts[-1] += character
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        else:
            depth += (character == "(") - (character == ")")
    return parts
