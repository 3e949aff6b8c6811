"""Runs the service until a signal stops it."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable

from service import log
from service.allocator import give_back_large_blocks
from service.contract.settings import Settings, SettingsError
from service.native import backend
from service.server import ListenError, listening

logger = logging.getLogger("service")

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(settings: Settings) -> int:
    """Returns the exit code: 0 after SIGTERM or SIGINT, 1 if a setting or the address cannot be used."""
    log.configure(settings.log_format, settings.log_level)
    give_back_large_blocks()
    # Modules stay in memory, and reference counting frees the objects of a request: the garbage collector's default of
    # one run every 700 objects wastes time.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(settings))
    except (ListenError, SettingsError) as error:
        logger.error("%s", error)  # noqa: TRY400 - the sentence needs no traceback
        return 1
    return 0


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with listening(settings) as port:
        logger.info(
            "inner loops are %s",
            "compiled" if backend.COMPILED else "the slower fallback: python -m service.native.build",
        )
        if settings.is_open and settings.http_host not in _LOOPBACK:
            logger.warning("no API key is needed (API_KEYS): everyone who reaches %s may use all of the API", port)
        scheme = "http" if settings.tls_cert is None else "https"
        host = f"[{settings.http_host}]" if ":" in settings.http_host else settings.http_host
        logger.info("listening on %s://%s:%d", scheme, host, port)
        await stop.wait()
        logger.info("Received shutdown signal")
    logger.info("stopped")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop
