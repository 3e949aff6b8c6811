"""The page for browsers: GET /, /ui, and the files that it consists of."""

from __future__ import annotations

from aiohttp import ETag, hdrs, web

from service.api.errors import ApiError
from service.ui.files import HEADERS, PAGE, page_files


async def root(request: web.Request) -> web.Response:
    """Redirects to the page."""
    return web.Response(status=307, headers={hdrs.LOCATION: "ui"})  # relative, for services behind a path


async def page(request: web.Request) -> web.Response:
    """Returns the page."""
    return _file(request, PAGE)


async def page_file(request: web.Request) -> web.Response:
    """Returns a file of the page."""
    return _file(request, request.match_info["file"])


def _file(request: web.Request, name: str) -> web.Response:
    found = page_files().get(name)
    if found is None:
        raise ApiError(404, f"the page has no file {name!r}")
    if any(tag.value == found.etag for tag in request.if_none_match or ()):
        response = web.Response(status=304, headers=HEADERS)
    elif "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
        response = web.Response(body=found.compressed, headers={**HEADERS, hdrs.CONTENT_ENCODING: "gzip"})
    else:
        response = web.Response(body=found.body, headers=HEADERS)
    response.content_type = found.content_type
    response.charset = "utf-8"
    response.etag = ETag(found.etag, is_weak=True)
    return response
