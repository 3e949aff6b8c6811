"""The lines in the log that say where the service listens, and who may use it."""

from __future__ import annotations

import logging

from service.contract.settings import Settings

logger = logging.getLogger("service")

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def announce(settings: Settings, port: int) -> None:
    """Logs the address, and a warning if everyone who reaches it may use all of the API."""
    if settings.is_open and settings.http_host not in _LOOPBACK:
        logger.warning("no API key is needed (API_KEYS): everyone who reaches %s may use all of the API", port)
    scheme = "http" if settings.tls_cert is None else "https"
    host = f"[{settings.http_host}]" if ":" in settings.http_host else settings.http_host
    logger.info("listening on %s://%s:%d", scheme, host, port)
