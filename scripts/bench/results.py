"""What was measured: each figure in rounds taken in turn, and all of them as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure. `ours` and `theirs` hold one value per round, in `unit`; `peer` says what theirs is."""

    part: str
    what: str
    unit: str
    ours: Sequence[float]
    peer: str = ""
    theirs: Sequence[float] = ()
    more_is_better: bool = False
    least_ratio: float | None = None
    """The target, as a ratio."""
    most: float | None = None
    """The target, in `unit`."""

    @property
    def ratio(self) -> float | None:
        """How many times better ours is than the peer's, which is above 1 when it is: the median over the rounds."""
        if not self.theirs:
            return None
        pairs = zip(self.ours, self.theirs, strict=True)
        return statistics.median(a / b if self.more_is_better else b / a for a, b in pairs)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None when there is none, or no peer to compare to."""
        if self.most is not None:
            return statistics.median(self.ours) <= self.most
        return None if self.least_ratio is None or self.ratio is None else self.ratio >= self.least_ratio


class LeftOut(NamedTuple):
    """Something that could not be measured here, and why."""

    what: str


class Report(msgspec.Struct, frozen=True):
    """All figures of a run, on what they were taken, and what was left out of it."""

    machine: str
    left_out: Sequence[str]
    measures: Sequence[Measure]


class Rounds:
    """Collects, round by round, a value of each server for each of several figures."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, list[float]]] = {}

    def add(self, server: str, values: Mapping[str, float]) -> None:
        """Adds what one round of a server gave, by figure."""
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
        """The measure of one figure: of these two servers; or of the one that came first, and the other if any."""
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
    """Writes all rounds of all measures."""
    rows = [
        {**msgspec.structs.asdict(measure), "ratio": measure.ratio, "met": measure.met} for measure in report.measures
    ]
    text = msgspec.json.encode({"machine": report.machine, "left_out": report.left_out, "measures": rows})
    file.write_bytes(msgspec.json.format(text, indent=2) + b"\n")


def read(file: Path) -> Report:
    """Reads what `write` wrote; raises OSError or msgspec.DecodeError."""
    return msgspec.json.decode(file.read_bytes(), type=Report)
