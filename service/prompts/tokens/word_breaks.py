"""Finds where a text may be cut within a piece without added tokens, because the pre-tokenizer cuts there anyway.

Three kinds of places are safe: before a space between words, before the last space of a run that no digit follows,
and after a lone line break before a letter. docs/prompts.md has the proof (lemmas 4 and 5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from service.native.backend import split_words

_LETTER = "A-Za-zА-Яа-я가-힣"
_WORD = f"!-~{_LETTER}"
_LINE_END = f"!-~{_LETTER}一-龥。，！？：；）"
_LINE_START = f"{_LETTER}一-龥"
_BEFORE_SPACE = rf"[{_WORD}](?= [{_WORD}])"
_IN_RUN = rf"[ \n](?= [!-/:-~{_LETTER}])"
_AFTER_LINE = rf"(?<=[{_LINE_END}])\n(?=[{_LINE_START}])"


class Breaks(NamedTuple):
    """Safe places other than before single spaces; `last` matches the character before any safe place."""

    last: re.Pattern[str]
    at_lines: bool
    in_runs: bool

    def words(self, text: str) -> list[str]:
        """Cuts a text at all safe places; the words joined are the text."""
        return split_words(text, self.at_lines, self.in_runs)


_AT_SPACES = Breaks(re.compile(_BEFORE_SPACE), at_lines=False, in_runs=False)
_AT_LINES = Breaks(re.compile(f"{_BEFORE_SPACE}|{_AFTER_LINE}"), at_lines=True, in_runs=False)
_IN_RUNS = Breaks(re.compile(f"{_BEFORE_SPACE}|{_IN_RUN}|{_AFTER_LINE}"), at_lines=True, in_runs=True)

LOOKAHEAD = 2
"""Number of characters after a place that determine whether it is safe."""

_LETTERS = (
    r" ?\p{L}+",
    r"[^\r\n\p{L}\p{N}]?\p{L}+",
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
)
"""Alternatives that match any lower-case letter on its own; together with the next ones, any letter."""

_CAPITALS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
)

_SPACE = r"\s+"
_ALL_BUT_LAST = r"\s+(?!\S)"

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
    _ALL_BUT_LAST,
    _SPACE,
)
_ALTERNATIVES = frozenset((*_LETTERS, *_CAPITALS, *_OTHERS))

_APART = frozenset({r"\p{N}", r"\p{N}{1,3}", r"\p{N}+", "[一-龥\u3040-ゟ゠-ヿ]+"})
"""Patterns that do not affect the safe places (lemma 5)."""

Step = Literal["cuts in runs", "cuts", "cuts at spaces", "apart", "unknown"]


def safe_breaks(pre_tokenizer: Mapping[str, Any] | None) -> Breaks | None:
    """Returns the safe places, or None if none are known.

    `pre_tokenizer` is in tokenizer.json's form.
    """
    punctuation_is_apart = False
    for step in _steps(pre_tokenizer):
        punctuation_is_apart |= step["type"] == "Punctuation"
        match _kind(step):
            case "cuts in runs" if not punctuation_is_apart:
                return _IN_RUNS
            case "cuts" | "cuts in runs":
                return _AT_LINES
            case "cuts at spaces":
                return _AT_SPACES
            case "unknown":
                return None
    return None


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if pre_tokenizer is None:
        return
    if pre_tokenizer["type"] == "Sequence":
        for step in pre_tokenizer["pretokenizers"]:
            yield from _steps(step)
    else:
        yield pre_tokenizer


def _kind(step: Mapping[str, Any]) -> Step:
    """Whether a step cuts at safe places, or leaves letters and the white space between them to the next step."""
    kind: Step = "unknown"
    match step:
        case {"type": "Digits"} | {"type": "Punctuation", "behavior": "Isolated"}:
            kind = "apart"
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": uses_regex}:
            kind = "cuts in runs" if uses_regex else "apart"
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"} if pattern in _APART:
            kind = "apart"
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}:
            # Both keep matches as words; the second drops the rest.
            keeps_words = (behavior, invert) in (("Isolated", False), ("Removed", True))
            kind = _kind_of_pattern(pattern) if keeps_words else "unknown"
        case {"type": "Metaspace", "split": True}:
            kind = "cuts at spaces"
        case {"type": "Whitespace" | "WhitespaceSplit" | "BertPreTokenizer"}:
            kind = "cuts"
    return kind


def _kind_of_pattern(pattern: str) -> Step:
    alternatives = _alternatives(pattern.replace("\r", r"\r").replace("\n", r"\n"))
    small = any(alternative in _LETTERS for alternative in alternatives)
    known = all(part in _ALTERNATIVES for part in alternatives)
    if known and small and _covers_capitals(alternatives) and _SPACE in alternatives:
        return "cuts in runs" if _ALL_BUT_LAST in alternatives else "cuts"
    return "unknown"


def _covers_capitals(alternatives: Sequence[str]) -> bool:
    return any(part in _CAPITALS or part in _LETTERS[:4] for part in alternatives)


def _alternatives(pattern: str) -> list[str]:
    """Splits a pattern at each `|` outside of groups and classes."""
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
