"""The headers of an answer to the client."""

from __future__ import annotations

from aiohttp import HttpVersion, HttpVersion11, web
from multidict import CIMultiDict

from service.gateway.client_request import TokenOrigin
from service.gateway.http import Head, end_to_end
from service.routing.choice import Basis, Choice


def added_headers(choice: Choice, origin: TokenOrigin | None, *, names_rank: bool) -> list[tuple[str, str]]:
    """The headers that an answer gets here: which pod gave it, and what was predicted if that was certain."""
    added = [("X-Kvcache-Pod", choice.pod.name)]
    if names_rank:
        added.append(("X-Kvcache-Rank", str(choice.rank)))
    if origin is not None:
        if choice.basis is not Basis.PLACEMENT:
            added.append(("X-Kvcache-Predicted-Tokens", str(choice.predicted)))
        added.append(("X-Kvcache-Predicted-From", choice.basis))
        added.append(("X-Kvcache-Renderer", origin.renderer))
        if origin.parity is not None:
            added.append(("X-Kvcache-Parity", origin.parity))
    return added


class Response(web.StreamResponse):
    """A response with the engine's status and headers; aiohttp adds none.

    The head is sent with the first piece of the body, in one packet.
    """

    _send_headers_immediately = False

    def __init__(self, head: Head, added: list[tuple[str, str]], version: HttpVersion) -> None:
        headers: CIMultiDict[str] = CIMultiDict(
            (name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))
            for name, value in end_to_end(head.headers)
        )
        for name, value in added:
            headers[name] = value
        super().__init__(status=head.status, reason=head.reason, headers=headers)
        if head.get(b"content-length") is None and head.status not in {204, 304} and version >= HttpVersion11:
            self.enable_chunked_encoding()
