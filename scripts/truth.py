"""Ground truth of a recording: the engine's own reuse at its end."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from service.index.base import Index, Prompt, Rank


class Difference(NamedTuple):
    """A probe with different answers of the index and the engine, in blocks."""

    probe: int
    rank: Rank
    held: int
    found: int


class _Probe(msgspec.Struct):
    tokens: list[int]
    blocks: dict[str, int]
    lora_name: str | None = None
    cache_salt: str | None = None


class _Pod(msgspec.Struct):
    topic: str
    last_seq: int


class _Document(msgspec.Struct):
    block_size: int
    pods: dict[str, _Pod]
    probes: list[_Probe]


@dataclass(frozen=True, slots=True)
class Truth:
    """Probes with the number of leading full blocks that each rank held; a rank above 0 is named `POD#dpN`."""

    model: str
    block_size: int
    last_sequence: Mapping[Rank, int]
    """The sequence number of each rank's last batch."""
    probes: Sequence[tuple[Prompt, Mapping[Rank, int]]]

    @classmethod
    def read(cls, path: Path) -> Truth:
        """Reads a truth file of tests/recordings. Raises OSError and msgspec.DecodeError."""
        document = msgspec.json.decode(path.read_bytes(), type=_Document)
        model = next(iter(document.pods.values())).topic.split("@", 2)[2]
        return cls(
            model,
            document.block_size,
            {_rank(name, model): pod.last_seq for name, pod in document.pods.items()},
            [
                (
                    Prompt(model, array("I", probe.tokens), probe.lora_name, probe.cache_salt),
                    {_rank(name, model): blocks for name, blocks in probe.blocks.items()},
                )
                for probe in document.probes
            ],
        )

    def differences(self, index: Index) -> Iterator[Difference]:
        """The probes with different answers of the index.

        Probes count whole blocks, so each is queried with one more token, which an engine always computes.
        """
        for number, (prompt, blocks) in enumerate(self.probes):
            longer = msgspec.structs.replace(prompt, tokens=prompt.tokens + array("I", [0]))
            found = {match.rank: match.tokens // self.block_size for match in index.match(longer)}
            for rank in {**blocks, **found}:
                if blocks.get(rank, 0) != found.get(rank, 0):
                    yield Difference(number, rank, blocks.get(rank, 0), found.get(rank, 0))


def _rank(name: str, model: str) -> Rank:
    pod, _, number = name.partition("#dp")
    return Rank(pod, model, int(number or 0))
