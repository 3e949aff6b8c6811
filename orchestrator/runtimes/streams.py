"""Splits the byte chunks of a process's output, as container runtimes send them, into lines."""

from __future__ import annotations

import codecs
import struct
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

from orchestrator.errors import ToolFailed

_LINES_OF_A_FAILED_TOOL = 20
_ERRORS = 2  # stream id of standard error in a multiplexed stream


def lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Text lines without line ends; a chunk may hold many lines, part of a line, or part of a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    for chunk in chunks:
        *whole, rest = (rest + decoder.decode(chunk)).split("\n")
        for line in whole:
            yield line.rstrip("\r")
    if rest := rest + decoder.decode(b"", final=True):
        yield rest


def frames(read: Callable[[int], bytes]) -> Iterator[tuple[bytes | None, bytes | None]]:
    """Chunks of standard output and standard error, demultiplexed.

    Source: Docker Engine API, ContainerAttach, "Stream format".
    """
    while len(header := read(8)) == 8:
        number, length = struct.unpack(">BxxxL", header)
        piece = read(length)
        yield (None, piece) if number == _ERRORS else (piece, None)


def tool_lines(
    arguments: Sequence[str],
    pieces: Iterable[tuple[bytes | None, bytes | None]],
    exit_code: Callable[[], int],
) -> Generator[str, None, None]:
    """The lines of a tool's output; if it failed, raises ToolFailed with its standard error at the end."""
    errors: deque[bytes] = deque(maxlen=256)

    def output() -> Iterator[bytes]:
        for written, complained in pieces:
            if complained:
                errors.append(complained)
            if written:
                yield written

    yield from lines(output())
    if code := exit_code():
        raise ToolFailed(arguments[0], code, tuple(lines(errors))[-_LINES_OF_A_FAILED_TOOL:])
