"""Metrics as the text that scrapers read. Imported by the first scrape: nobody else needs prometheus_client."""

from __future__ import annotations

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector


def written(families: list[Metric], accept: str) -> tuple[bytes, str]:
    """The text and its content type, in the format that a scraper's Accept header prefers."""
    encode, content_type = choose_encoder(accept)
    return encode(_Families(families)), content_type


class _Families(Collector):
    """Families that were collected already: to collect reads the index, which threads must not."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families
