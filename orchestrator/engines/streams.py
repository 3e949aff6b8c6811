"""Lines out of the pieces in which container engines send a log."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator


def lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Text lines without their ends; a piece may hold many lines, or half of one, or half of a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    for chunk in chunks:
        *whole, rest = (rest + decoder.decode(chunk)).split("\n")
        for line in whole:
            yield line.rstrip("\r")
    if rest := rest + decoder.decode(b"", final=True):
        yield rest
