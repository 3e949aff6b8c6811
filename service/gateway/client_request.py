"""A client's request on its way to an engine."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from aiohttp import web

from service.gateway.request_record import RECORD, RequestRecord
from service.routing.question import Question


class TokenOrigin(NamedTuple):
    """The renderer of a prompt's tokens, and whether they equal the engine's; the client is told both."""

    renderer: str
    parity: str | None = None


class ClientRequest(msgspec.Struct, frozen=True):
    """A request to forward: where it should go (`question`), and how it is sent and judged.

    `origin` is None if nothing is predicted.
    """

    http: web.Request
    body: bytes
    question: Question
    origin: TokenOrigin | None = None
    around: bytes | None = None
    """All fields of the body but the messages, as bytes; None if unknown."""
    is_judged: bool = False
    """Whether the usage of its answer tells about this prompt, and nothing else."""
    asks_usage: bool = False
    """Whether to ask the engine for the usage of a stream if the client does not."""
    sends_tokens: bool = False
    """Whether engines get the tokens of the prompt, because they would compute the same ones."""

    @property
    def record(self) -> RequestRecord:
        """The record of the request."""
        return self.http[RECORD]
