"""Human-readable durations and sizes."""

from __future__ import annotations

import math
import re
from fractions import Fraction

_AMOUNT = r"[0-9]+(?:\.[0-9]+)?"
_TIME = re.compile(rf"{_AMOUNT}|(?:{_AMOUNT} ?(?:ms|s|m|h|d))+", re.IGNORECASE)
_TIME_PART = re.compile(rf"({_AMOUNT}) ?(ms|s|m|h|d)?", re.IGNORECASE)
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(rf"({_AMOUNT}) ?(?:([kmgt])i?)?b?", re.IGNORECASE)
_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DIGITS = 20  # digits that are used of a number; Python refuses to read more than 4,300


def parse_seconds(text: str) -> float:
    """Seconds of 30, 30s, 5m, 1h30m, 2d or 250ms; raises ValueError unless they are above zero."""
    text = text.strip()
    seconds = 0.0
    if _TIME.fullmatch(text):
        seconds = sum(float(number) * _SECONDS[unit.lower()] for number, unit in _TIME_PART.findall(text))
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError("must be a time above zero, such as 30, 30s, 5m or 250ms")
    return seconds


def parse_size(text: str, low: int = 1) -> int:
    """Bytes of 1048576, 512m, 2g or 1.5GiB (units are powers of 1024); raises ValueError for fewer than `low`."""
    match = _SIZE.fullmatch(text.strip())
    size = int(Fraction(match[1][:_DIGITS]) * _BYTES[(match[2] or "").lower()]) if match else -1
    if size < low:
        raise ValueError(f"must be a size of {format_size(low)} or more, such as 64m or 2GiB")
    return size


def format_seconds(seconds: float | None) -> str:
    """A duration in its largest fitting unit, such as 250 ms, 1.5 s or 2.0 h; - for None."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def format_size(count: float) -> str:
    """A number of bytes in its largest fitting unit, such as 512 B or 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
