"""Reads the subset of Prometheus' text format that the service writes."""

from __future__ import annotations

import re
from collections import defaultdict

_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{.*\})? (?P<value>[-+.eE\d]+|[-+]?Inf|NaN)(?: \d+)?")


def totals(text: str) -> dict[str, float]:
    """Sums the values of each series by name, over all labels. Skips unknown lines."""
    found: dict[str, float] = defaultdict(float)
    for line in text.splitlines():
        if (match := _SAMPLE.fullmatch(line)) is not None:
            found[match["name"]] += float(match["value"])
    return dict(found)
