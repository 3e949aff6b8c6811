"""Splits texts at the safe places that service/prompts/tokens/word_breaks.py defines, compiled by mypyc."""

from __future__ import annotations

from mypy_extensions import i32, i64


def split_words(text: str, at_lines: bool, in_runs: bool) -> list[str]:
    """Splits a text into words; joined, they are the text."""
    found: list[str] = []
    size: i64 = len(text)
    start: i64 = 0
    at: i64 = 0
    before: i32 = 0
    while at + 1 < size:
        character: i32 = ord(text[at])
        if character == 32:
            if at > start:
                after: i32 = ord(text[at + 1])
                if _is_in_word(after):
                    in_run = in_runs and (before == 32 or before == 10) and (after < 0x30 or after > 0x39)
                    if in_run or _is_in_word(before):
                        found.append(text[start:at])
                        start = at
        elif character == 10 and at_lines and at > 0 and _ends_line(before) and _starts_line(ord(text[at + 1])):
            found.append(text[start : at + 1])
            start = at + 1
        before = character
        at += 1
    found.append(text[start:size])
    return found


def _is_in_word(character: i32) -> bool:
    """Whether it is in `!-~`, А-я or 가-힣."""
    if character < 0x7F:
        return character > 0x20
    return 0x410 <= character <= 0x44F or 0xAC00 <= character <= 0xD7A3


def _is_letter(character: i32) -> bool:
    """Whether it is in A-Z, a-z, А-я or 가-힣."""
    if character < 0x7F:
        return 0x61 <= character <= 0x7A or 0x41 <= character <= 0x5A
    return 0x410 <= character <= 0x44F or 0xAC00 <= character <= 0xD7A3


def _starts_line(character: i32) -> bool:
    """Whether it is a letter or in 一-龥."""
    return _is_letter(character) or 0x4E00 <= character <= 0x9FA5


def _ends_line(character: i32) -> bool:
    """Whether it is in a word or in 一-龥, or one of ，。！？：；）."""
    if _is_in_word(character) or 0x4E00 <= character <= 0x9FA5 or character == 0x3002:
        return True
    if character < 0xFF01 or character > 0xFF1F:
        return False
    return (
        character == 0xFF0C
        or character == 0xFF01
        or character == 0xFF1F
        or character == 0xFF1A
        or character == 0xFF1B
        or character == 0xFF09
    )
