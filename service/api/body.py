"""Reads the body of a request within its limits: size, time, rate, inflated size and number of JSON values."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from typing import Final

from aiohttp import web

from service.api.errors import ApiError
from service.api.json_shape import JsonShape, count_values
from service.api.resources import LIMITS, TURNS, reservation_of

_INFLATE_STEP: Final = 1 << 18
_SMALL_BODY: Final = 1 << 19
"""A body up to this size takes only a few milliseconds and megabytes to decode, whatever its content."""


async def read_body(request: web.Request) -> bytes:
    """The whole body; takes a place for the request.

    Raises ApiError 408 if it arrives too slowly, 413 if it is too large, 415 for an unknown encoding, and 429 if
    no place or no room for its bytes is free.
    """
    limits, reservation = request.app[LIMITS], reservation_of(request)
    encoding = request.headers.get("Content-Encoding")
    if encoding is None and request.content.is_eof():  # the body is already complete: no timer needed
        body = request.content.read_nowait()
        limits.check_body(len(body))
        reservation.charge(len(body))
    else:
        limits.check_body(request.content_length or 0)
        body = await _receive(request, _Inflater(encoding) if encoding not in (None, "identity") else None)
    if len(body) > _SMALL_BODY:
        async with request.app[TURNS]:
            await _check_shape(request, body)
    reservation.take_place()
    return body


async def _receive(request: web.Request, inflater: _Inflater | None) -> bytes:
    limits, reservation, content = request.app[LIMITS], reservation_of(request), request.content
    loop = asyncio.get_running_loop()
    end = loop.time() + limits.body_timeout
    window = limits.rate_window
    window_end, window_bytes = loop.time() + window, 0
    body = bytearray()
    dropped = False

    def drop() -> None:
        nonlocal dropped
        dropped = True
        timeout.reschedule(loop.time())

    try:
        async with asyncio.timeout_at(min(end, window_end)) as timeout:
            with reservation.waiting_for_client(drop):
                while received := await content.readany():
                    for chunk in inflater.inflate(received) if inflater else (received,):
                        body += chunk
                        limits.check_body(len(body))
                        reservation.charge(len(chunk))
                        if inflater:
                            await asyncio.sleep(0)
                    window_bytes += len(received)
                    if window_bytes >= limits.min_body_rate * window:
                        window_end, window_bytes = loop.time() + window, 0
                        timeout.reschedule(min(end, window_end))
    except TimeoutError:
        if dropped:
            raise ApiError(408, "the body arrived too slowly while others needed its memory") from None
        if loop.time() >= end:
            raise ApiError(408, f"the body did not arrive within {limits.body_timeout:g} s (BODY_TIMEOUT)") from None
        slow = f"the body arrived at less than {limits.min_body_rate} bytes a second (MIN_BODY_RATE)"
        raise ApiError(408, slow) from None
    if inflater:
        inflater.finish()
    return bytes(body)


class _Inflater:
    """Inflates a compressed body in small steps."""

    def __init__(self, encoding: str | None) -> None:
        """Raises ApiError 415 for an unknown encoding."""
        self._encoding = (encoding or "").strip().lower()
        if self._encoding not in ("gzip", "x-gzip", "deflate"):
            raise ApiError(415, f"Content-Encoding must be gzip or deflate, not {self._encoding[:100]!r}")
        self._zlib: zlib._Decompress | None = None

    def inflate(self, received: bytes) -> Iterator[bytes]:
        """Yields the inflated bytes in chunks of limited size; raises ApiError 400."""
        if self._zlib is None:
            raw = self._encoding == "deflate" and received[0] & 0xF != 8  # without zlib's header, as some clients send
            self._zlib = zlib.decompressobj(-zlib.MAX_WBITS if raw else 32 + zlib.MAX_WBITS)
        while received:
            try:
                chunk = self._zlib.decompress(received, _INFLATE_STEP)
            except zlib.error:
                raise self._broken() from None
            received = self._zlib.unconsumed_tail
            if chunk:
                yield chunk
            elif self._zlib.eof:
                return

    def finish(self) -> None:
        """Raises ApiError 400 if the compressed body is truncated."""
        if self._zlib is not None and not self._zlib.eof:
            raise self._broken()

    def _broken(self) -> ApiError:
        return ApiError(400, f"the body is not valid {self._encoding}: it is broken or it ended too early")


async def _check_shape(request: web.Request, body: bytes) -> None:
    """Raises ApiError 413 for a body of too many JSON values; reserves the memory of their decoded form."""
    limits, shape = request.app[LIMITS], JsonShape()
    for shape in count_values(body):
        limits.check_shape(shape)
        await asyncio.sleep(0)
    reservation_of(request).charge(shape.memory)
