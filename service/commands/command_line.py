"""The parser and the value types that all tools share."""

from __future__ import annotations

import argparse
import os

from service.contract.units import parse_seconds


class _Paragraphs(argparse.HelpFormatter):
    """Fills each paragraph of a text to the width of the terminal, and leaves lines that are indented."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(
            paragraph if "\n  " in paragraph else fill(paragraph, width, indent) for paragraph in text.split("\n\n")
        )


def parser(tool: str, description: str | None, *examples: str) -> argparse.ArgumentParser:
    """A parser with the command name that the user typed: `kvcache record` runs `python -m service record`.

    `examples` are arguments, shown at the end of its help.
    """
    program = f"{os.environ.get('KVCACHE_PROGRAM', 'python -m service')} {tool}"
    return argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog="\n".join(["Examples:", *(f"  {program} {example}" for example in examples)]) if examples else None,
        allow_abbrev=False,
        formatter_class=_Paragraphs,
    )


def seconds(text: str) -> float:
    """Parses a duration such as 60, 60s, 5m or 250ms."""
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None


def positive(text: str) -> int:
    """Parses an integer of at least 1."""
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 10**12):
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of 1 or more")
    return int(text)


def above_zero(text: str) -> float:
    """Parses a number above zero."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above zero")
    return number
