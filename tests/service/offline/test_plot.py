from __future__ import annotations

from pathlib import Path

import pytest

from service.events.recording import Recording
from service.offline.analysis import Analysis, analyse

_SIGNATURES = {"png": b"\x89PNG", "svg": b"<?xml"}


def plot(analysis: Analysis, folder: Path, kind: str) -> list[Path]:
    from service.offline.plot import plot as draw  # noqa: PLC0415 - slow to load

    return draw(analysis, folder, kind)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_each_part_of_the_analysis_is_a_picture(recordings: Path, tmp_path: Path, kind: str) -> None:
    with (recordings / "f_steps.jsonl").open("rb") as lines:
        drawn = plot(analyse(Recording(lines), "m", prefixes=5, bytes_per_token=1), tmp_path / "new", kind)
    assert [path.stem for path in drawn] == ["blocks", "rates", "lifetimes", "sharing", "prefixes"]
    for path in drawn:
        assert path.read_bytes().startswith(_SIGNATURES[kind])
        assert path.stat().st_size > 4000


def test_nothing_recorded_can_be_drawn(tmp_path: Path) -> None:
    assert len(plot(analyse(Recording([]), "m", prefixes=5, bytes_per_token=1), tmp_path, "svg")) == 5
