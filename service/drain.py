"""The end of a service: it says so, lets connections run out, and answers what is in flight.

A balancer in front sees in /ready that the service stops, and sends its next connections elsewhere. Until it does, they
are taken and answered: whoever closes a listening socket resets the connections that wait in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection
from contextlib import suppress

from service.api.traffic import Traffic
from service.listener import Listener
from service.quiet import until_quiet


async def drain(
    traffic: Traffic,
    listeners: Collection[Listener],
    seconds: float,
    no_more_connections: Awaitable[None] | None = None,
) -> None:
    """Returns when everything is answered, or after `seconds`.

    New connections are taken until `no_more_connections` returns, or else until it is quiet.
    """
    traffic.is_ending = True
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await (no_more_connections or until_quiet(lambda: traffic.last_connection, seconds))
            for listener in listeners:
                listener.close()
            for listener in listeners:
                await listener.wait_begun()
            await traffic.wait_silent()  # HEADER_TIMEOUT ends connections that send nothing
            # aiohttp drops unread bodies as soon as it shuts down.
            await traffic.wait_idle()
