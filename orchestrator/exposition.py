"""Reading Prometheus' text format, as far as the service writes it."""

from __future__ import annotations

import re
from collections import defaultdict

_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{.*\})? (?P<value>[-+.eE\d]+|[-+]?Inf|NaN)(?: \d+)?")


def totals(text: str) -> dict[str, float]:
    """Each series' value by name, those of different labels added up. Unknown lines are passed over."""
    found: dict[str, float] = defaultdict(float)
    for line in text.splitlines():
        if (match := _SAMPLE.fullmatch(line)) is not None:
            found[match["name"]] += float(match["value"])
    return dict(found)
