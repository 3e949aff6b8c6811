"""The end of a service: it says so, lets connections run out, and answers what is in flight.

A balancer in front sees in /ready that the service stops, and sends its next connections elsewhere. Until it does, they
are taken and answered: whoever closes a listening socket resets the connections that wait in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from service.api.traffic import Traffic
from service.listener import Listener

_QUIET_SECONDS: Final = 0.25
"""No connection came for so long: the next ones go elsewhere."""
_QUIET_SHARE: Final = 0.25
"""The share of the time that goes by at most until then."""


async def drain(traffic: Traffic, listeners: Iterable[Listener], seconds: float) -> None:
    """Returns when everything is answered, or after `seconds`."""
    traffic.is_ending = True
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds * _QUIET_SHARE):
                    await traffic.wait_quiet(_QUIET_SECONDS)
            for listener in listeners:
                listener.close()
            await traffic.wait_silent()  # HEADER_TIMEOUT ends connections that send nothing
            # aiohttp drops unread bodies as soon as it shuts down.
            await traffic.wait_idle()
