#!/usr/bin/env python3
"""Compares the index with engines: applies recordings of their events and, at the moment of each question, compares the
answer of the index with the engine's own reuse.

    python scripts/check_recording.py tests/recordings/*.jsonl
    python scripts/check_recording.py my_engine.jsonl my_engine.truth.json

The questions of X.jsonl are in X.requests.jsonl (asked in mid-stream) and X.truth.json (asked after the last batch),
or in the files named after it; tests/recordings/README.md describes them.
A recording without questions is skipped. Exits 1 if a different answer claims to be exact, 2 if a file cannot be
used or no recording has questions.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from service.events.recording import Recording
from service.index.memory import MemoryIndex
from service.offline.feed import Feed
from service.simulation.questions import Answer, MissingBatch, Question, answers, read_requests, read_truth

_MODEL = "builtin/demo"
_REPLIES = re.compile(r"\.replay\d+\.jsonl$")
_COLUMNS = "{:34} {:>6} {:>6} {:>9} {:>13} {:>14}  {}"
_HEADINGS = ("recording", "rows", "equal", "different", "claimed exact", "needless marks", "marked as inexact because")


class NoQuestions(Exception):
    """No file has the engine's own results for a recording."""


@dataclass(slots=True)
class Checked:
    """The result for one recording."""

    name: str
    malformed: int
    answers: list[Answer]

    @property
    def different(self) -> int:
        return sum(not answer.equal for answer in self.answers)

    @property
    def claimed(self) -> int:
        """Number of different answers that claim to be exact."""
        return sum(not answer.equal and answer.inexact is None for answer in self.answers)

    @property
    def needless(self) -> int:
        """Number of answers that are marked inexact although the recording has no different one."""
        return 0 if self.different else sum(answer.inexact is not None for answer in self.answers)

    @property
    def reasons(self) -> list[str]:
        return list(dict.fromkeys(answer.inexact for answer in self.answers if answer.inexact))


@dataclass(slots=True)
class Files:
    """A recording and the files with its questions."""

    recording: Path
    requests: Path | None = None
    truth: Path | None = None

    def questions(self) -> list[Question]:
        """Returns the questions in the order of their moments. Raises NoQuestions, OSError and msgspec.DecodeError."""
        requests = self.requests or _beside(self.recording, ".requests.jsonl")
        truth = self.truth or _beside(self.recording, ".truth.json")
        if requests is None and truth is None:
            name = self.recording.name.removesuffix(".jsonl")
            raise NoQuestions(f"there is neither {name}.requests.jsonl nor {name}.truth.json beside it")
        final, block_size = read_truth(truth) if truth else ([], 0)
        return (read_requests(requests, block_size) if requests else []) + final


@dataclass(slots=True)
class Totals:
    """Sums over recordings."""

    recordings: list[Checked] = field(default_factory=list)

    def row(self) -> str:
        rows = sum(len(checked.answers) for checked in self.recordings)
        different = sum(checked.different for checked in self.recordings)
        claimed = sum(checked.claimed for checked in self.recordings)
        needless = sum(checked.needless for checked in self.recordings)
        name = f"{len(self.recordings)} recordings"
        return _COLUMNS.format(name, rows, rows - different, different, claimed, needless, "").rstrip()


def _beside(recording: Path, suffix: str) -> Path | None:
    path = recording.with_suffix(suffix)
    return path if path.exists() else None


def grouped(paths: Sequence[Path]) -> list[Files]:
    """Pairs each recording with the question files named after it.

    A recording finds the files of its own name itself; `e_array_0.9.2.jsonl a_simple.truth.json` compares with others.
    """
    found: list[Files] = []
    for path in paths:
        if path.suffix == ".json":
            if found and _recording_of(path, ".truth.json") not in paths:
                found[-1].truth = path
        elif path.name.endswith(".requests.jsonl"):
            if found and _recording_of(path, ".requests.jsonl") not in paths:
                found[-1].requests = path
        elif not _REPLIES.search(path.name):
            found.append(Files(path))
    return found


def _recording_of(questions: Path, suffix: str) -> Path:
    return questions.with_name(questions.name.removesuffix(suffix) + ".jsonl")


def check(files: Files) -> Checked:
    """Replays one recording. Raises NoQuestions, OSError, msgspec.DecodeError and MissingBatch."""
    if not files.recording.exists():
        raise FileNotFoundError("no such file")
    questions = files.questions()
    with files.recording.open("rb") as lines:
        recording = Recording(lines)
        messages = list(recording)
    index = MemoryIndex(max_blocks=sys.maxsize)
    found = list(answers(Feed(index, _MODEL), index, messages, questions))
    return Checked(files.recording.name.removesuffix(".jsonl"), recording.malformed, found)


def differences(checked: Checked) -> Iterable[str]:
    """Prints a line for each different answer."""
    for answer in checked.answers:
        if answer.equal:
            continue
        question = answer.question
        held, found = f"{question.reused}", f"{answer.found}"
        if question.gpu_reused is not None:
            held, found = f"{held} ({question.gpu_reused} on the GPU)", f"{found} ({answer.gpu_found} on the GPU)"
        claim = "CLAIMED EXACT" if answer.inexact is None else f"inexact: {answer.inexact}"
        moment = "at the end" if question.before is None else f"after {question.before[question.pod]}"
        yield (
            f"{checked.name}: {question.name}, {question.pod} {moment}: of {len(question.tokens)} tokens the engine "
            f"reuses {held}, the index says {found}; {claim}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="recordings, as JSON lines")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the table, not each difference")
    parser.add_argument("--claimed", action="store_true", help="print only differences that claim to be exact")
    arguments = parser.parse_args()
    totals = Totals()
    status = 0
    for files in grouped(arguments.files):
        try:
            checked = check(files)
        except NoQuestions as error:
            print(f"check_recording: {files.recording} is left out: {error}", file=sys.stderr)
            continue
        except (OSError, msgspec.DecodeError, MissingBatch) as error:
            print(f"check_recording: {files.recording}: {error}", file=sys.stderr)
            status = 2
            continue
        totals.recordings.append(checked)
        if not arguments.quiet:
            for line in differences(checked):
                if not arguments.claimed or line.endswith("CLAIMED EXACT"):
                    print(line)
        if checked.malformed:
            print(f"{checked.name}: {checked.malformed} malformed lines")
    print(_COLUMNS.format(*_HEADINGS))
    for checked in totals.recordings:
        equal = len(checked.answers) - checked.different
        reasons = "; ".join(checked.reasons)
        counts = (len(checked.answers), equal, checked.different, checked.claimed, checked.needless)
        print(_COLUMNS.format(checked.name, *counts, reasons).rstrip())
    print(totals.row())
    if status or not totals.recordings:
        return 2
    return int(any(checked.claimed for checked in totals.recordings))


if __name__ == "__main__":
    sys.exit(main())
