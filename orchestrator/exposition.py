"""Reading Prometheus' text format, as far as the service writes it."""

from __future__ import annotations

import re
from collections import defaultdict

_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{.*\})? (?P<value>\S+)(?: \S+)?")


def totals(text: str) -> dict[str, float]:
    """Each series' value by name, those of different labels added up. Unknown lines are passed over."""
    found: dict[str, float] = defaultdict(float)
    for line in text.splitlines():
        match = _SAMPLE.fullmatch(line)
        if match is not None:
            try:
                found[match["name"]] += float(match["value"])
            except ValueError:
                continue
    return dict(found)
