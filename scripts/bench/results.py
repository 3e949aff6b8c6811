"""Measurements in rounds, and their JSON form."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """One row. `ours` and `theirs` have one value per round in `unit`; `peer` is the name of theirs."""

    part: str
    what: str
    unit: str
    ours: Sequence[float]
    peer: str = ""
    theirs: Sequence[float] = ()
    again: Sequence[float] = ()
    """Theirs, measured a second time in each round: how much the machine disagrees with itself."""
    more_is_better: bool = False
    least_ratio: float | None = None
    """The target, as a ratio."""
    most: float | None = None
    """The target, in `unit`."""

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer, as the median over the rounds; above 1 is better."""
        if not self.theirs:
            return None
        pairs = zip(self.ours, self.theirs, strict=True)
        return statistics.median(_quotient(a, b) if self.more_is_better else _quotient(b, a) for a, b in pairs)

    @property
    def noise(self) -> float | None:
        """How far two measurements of the same thing are apart in most rounds, as a share; None if there is one."""
        if not self.again:
            return None
        pairs = zip(self.theirs, self.again, strict=True)
        return statistics.median(abs(math.log(_quotient(a, b) or 1.0)) for a, b in pairs)

    def loses(self, most: float) -> bool:
        """Whether it is worse than the peer by more than this share and what is noise."""
        return self.ratio is not None and self.ratio < 1 - most - (self.noise or 0.0)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target or a peer."""
        if self.most is not None:
            return statistics.median(self.ours) <= self.most
        return None if self.least_ratio is None or self.ratio is None else self.ratio >= self.least_ratio


def _quotient(a: float, b: float) -> float:
    """a / b; two figures of 0, such as hit rates, are equal."""
    if b:
        return a / b
    return math.inf if a else 1.0


class LeftOut(NamedTuple):
    """A measurement that was skipped, and the reason."""

    what: str


class Report(msgspec.Struct, frozen=True):
    """All rows of a run, the machine, and the skipped measurements."""

    machine: str
    left_out: Sequence[str]
    measures: Sequence[Measure]


class Rounds:
    def __init__(self) -> None:
        self._values: dict[str, dict[str, list[float]]] = {}

    def add(self, server: str, values: Mapping[str, float]) -> None:
        for figure, value in values.items():
            self._values.setdefault(figure, {}).setdefault(server, []).append(value)

    def measure(
        self,
        figure: str,
        *,
        part: str,
        what: str,
        unit: str,
        servers: tuple[str, str] | None = None,
        more_is_better: bool = False,
        least_ratio: float | None = None,
        most: float | None = None,
    ) -> Measure:
        """The row of one figure: of `servers`, or of the first server and the second one if there is one."""
        values = self._values[figure]
        ours, peer = servers or (*values, "")[:2]
        return Measure(
            part=part,
            what=what,
            unit=unit,
            ours=values[ours],
            peer=peer,
            theirs=values.get(peer, ()),
            more_is_better=more_is_better,
            least_ratio=least_ratio,
            most=most,
        )


def write(report: Report, file: Path) -> None:
    rows = [
        {**msgspec.structs.asdict(measure), "ratio": measure.ratio, "met": measure.met} for measure in report.measures
    ]
    text = msgspec.json.encode({"machine": report.machine, "left_out": report.left_out, "measures": rows})
    file.write_bytes(msgspec.json.format(text, indent=2) + b"\n")


def read(file: Path) -> Report:
    """Reads a file of `write`. Raises OSError and msgspec.DecodeError."""
    return msgspec.json.decode(file.read_bytes(), type=Report)
