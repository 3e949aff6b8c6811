"""GET /snapshot: the index, for a replica that starts."""

from __future__ import annotations

from aiohttp import web

from service.api.errors import ApiError
from service.api.resources import BOOTSTRAP, SNAPSHOTS


async def snapshot(request: web.Request) -> web.StreamResponse:
    """Streams the index as a snapshot, which a replica with BOOTSTRAP_FROM loads."""
    if not request.app[BOOTSTRAP].done:
        raise ApiError(503, "the index is still being loaded", code="not_ready")
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    await response.prepare(request)
    async for piece in request.app[SNAPSHOTS].stream():
        await response.write(piece)
    await response.write_eof()
    return response
