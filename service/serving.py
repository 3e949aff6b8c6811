"""Runs the service until a signal stops it."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
from contextlib import suppress
from typing import Final

from service import log
from service.allocator import give_back_freed_pages, give_back_large_blocks
from service.announcement import announce
from service.contract.settings import Settings, SettingsError
from service.event_loop import loop_factory
from service.native import backend
from service.server import ListenError, Worker, listening
from service.workers.handed_connections import HandedConnections
from service.workers.place import Place

_GIVE_BACK_SECONDS: Final = 10.0
"""Seconds between two times that freed memory is given back."""

logger = logging.getLogger("service")


def serve(settings: Settings, place: Place | None = None) -> int:
    """Runs one process, which is a worker if it has a place among others.

    Returns the exit code: 0 after SIGTERM or SIGINT, 1 if a setting or the address cannot be used.
    """
    log.configure(settings.log_format, settings.log_level, place.number if place is not None else None)
    give_back_large_blocks()
    # Modules stay in memory, and reference counting frees the objects of a request: the garbage collector's default of
    # one run every 700 objects wastes time.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    gc.enable()
    _raise_limit_of_files()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_serve(settings, place))
    except (ListenError, SettingsError) as error:
        logger.error("%s", error)  # noqa: TRY400 - the sentence needs no traceback
        return 1
    finally:
        log.STDOUT.flush()
    return 0


async def _serve(settings: Settings, place: Place | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # A worker ends with its supervisor, also if that was killed.
    worker = Worker(place, HandedConnections(place.channel, stop.set)) if place is not None else None
    async with listening(settings, worker) as port:
        logger.info(
            "inner loops are %s",
            "compiled" if backend.COMPILED else "the slower fallback: python -m service.native.build",
        )
        if worker is None:
            announce(settings, port)
        giving_back = asyncio.create_task(_give_back(), name="freed memory")
        await stop.wait()
        giving_back.cancel()
        if worker is None:
            logger.info("Received shutdown signal")
    if worker is None:
        logger.info("stopped")


async def _give_back() -> None:
    """Gives back freed memory: events that waited in ZeroMQ's threads, and long texts, leave much of it."""
    while True:
        await asyncio.sleep(_GIVE_BACK_SECONDS)
        await asyncio.to_thread(give_back_freed_pages)


def _raise_limit_of_files() -> None:
    """Allows as many open files as the system does: an endpoint takes three, and shells often allow 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
