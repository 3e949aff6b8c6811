"""Analyses a recording of events, or scores prompts against it, without a service.

Prompts are JSON lines: "prompt" (text or token ids), "tokens" or "messages"; "model", "lora_name", "cache_salt",
"pods". A prompt is scored after all events, or at a given moment: "after": N messages, or "before": {"POD": N}, when
the last message of each pod is number N. "pod" with "cached_tokens" (or "leading_blocks"), or "blocks" by pod, give the
engine's own result to compare with. A data-parallel rank above 0 is "POD#dpN".

Exit code 1 if an answer differs from the engine's.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gzip
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import IO, cast

import msgspec

from service.commands.command_line import parser, positive
from service.contract.settings import Settings, SettingsError
from service.events.recording import NotARecording, Recording
from service.index.memory import MemoryIndex
from service.offline.analysis import analyse
from service.offline.feed import Feed
from service.offline.messages import message_line
from service.offline.prompt_lines import PromptLines
from service.offline.schedule import Schedule, TooFarApart
from service.offline.scoring import Scored, Scorer
from service.offline.summary import summary
from service.prompts.errors import ModelNotFound, ModelUnavailable, PromptError
from service.prompts.models.catalog import Models
from service.prompts.options import CacheBudget, PromptOptions

_GRANITE_BYTES = 81_920
"""Keys and values of a token: 2 × 40 layers × 8 heads × 64 × 2 bytes (Granite 3.3 2B)."""

_ERRORS = (
    *(SettingsError, OSError, EOFError, NotARecording, TooFarApart),
    *(ModelNotFound, ModelUnavailable, PromptError),
)


class Summary(msgspec.Struct, tag="summary", tag_field="kind"):
    """Totals over all prompts."""

    messages: int
    malformed_lines: int
    first_malformed_lines: list[int]
    prompts: int
    malformed_prompts: int
    first_malformed_prompts: list[int]
    prompt_tokens: int
    matched_tokens: int
    compared: int
    different: int


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    options = _options(arguments)
    logging.getLogger("service").setLevel(logging.CRITICAL)  # the report contains the same information
    try:
        if options.messages:
            return _messages(options)
        settings = _settings(options, environment)
        if options.prompts is None:
            return _analyse(options, settings)
        return asyncio.run(_score(options, settings))
    except _ERRORS as error:
        print(f"offline: {_explained(error, options.events)}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130


def _explained(error: Exception, recording: Path) -> str:
    if isinstance(error, (NotARecording, EOFError)):
        return f"{recording} cannot be read: {error}"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename} cannot be read: {error.strerror}"
    return str(error)


def _options(arguments: list[str]) -> argparse.Namespace:
    command = parser("offline", __doc__, "events.jsonl.gz", "events.jsonl --prompts prompts.jsonl")
    command.add_argument("events", type=Path, help="a recording: JSON lines, as `record` writes them, or a .gz of them")
    command.add_argument("--prompts", type=Path, help="score these prompts instead of analysing")
    command.add_argument("--messages", action="store_true", help="print each message as a JSON line, also damaged ones")
    command.add_argument("--json", action="store_true", help="print JSON lines")
    command.add_argument("--model", help="model of topics and prompts without one (default: MODEL_NAME)")
    command.add_argument("--models-dir", type=Path, help="folder of models on disk (default: MODELS_DIR)")
    command.add_argument("--block-size", type=positive, help="tokens per unit of score (default: BLOCK_SIZE)")
    command.add_argument("--prefixes", type=positive, default=10, help="number of longest prefixes to list (10)")
    command.add_argument(
        "--kv-bytes-per-token",
        type=positive,
        default=_GRANITE_BYTES,
        help=f"bytes of a token's keys and values ({_GRANITE_BYTES}: Granite 3.3 2B in 16 bits)",
    )
    command.add_argument("--plot", type=Path, metavar="DIR", help="folder for charts of the analysis")
    command.add_argument("--plot-format", choices=("png", "svg"), default="png", help="format of the charts (png)")
    options = command.parse_args(arguments)
    if options.plot and options.prompts:
        command.error("--plot draws the analysis: use it without --prompts")
    if options.messages and (options.plot or options.prompts):
        command.error("--messages prints the recording: use it without --plot and --prompts")
    return options


def _settings(options: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    settings = Settings.from_environment(environment)
    return dataclasses.replace(
        settings,
        model_name=options.model or settings.model_name,
        models_dir=options.models_dir or settings.models_dir,
        block_size=options.block_size or settings.block_size,
    )


def _messages(options: argparse.Namespace) -> int:
    with closing(_open(options.events)) as lines:
        _write(map(message_line, Recording(lines)))
    return 0


def _analyse(options: argparse.Namespace, settings: Settings) -> int:
    if options.plot:
        try:
            from service.offline.plot import plot  # noqa: PLC0415 - an optional extra, slow to load
        except ImportError:
            print("offline: --plot needs matplotlib: pip install matplotlib", file=sys.stderr)  # noqa: T201
            return 1
    with closing(_open(options.events)) as lines:
        analysis = analyse(
            Recording(lines),
            settings.model_name,
            prefixes=options.prefixes,
            bytes_per_token=options.kv_bytes_per_token,
        )
    if options.json:
        _write([msgspec.json.encode(analysis, enc_hook=str).decode()])
    else:
        _write(summary(analysis))
    if options.plot:
        drawn = plot(analysis, options.plot, options.plot_format)
        print("written:", *drawn, file=sys.stderr)  # noqa: T201
    return 0


async def _score(options: argparse.Namespace, settings: Settings) -> int:
    index = MemoryIndex(settings.index_max_blocks)
    feed = Feed(index, settings.model_name)
    # The user of this command is the operator: any model may be named.
    models = Models(
        PromptOptions.of(settings, CacheBudget.of(settings.token_cache_bytes, compiled=True)), lambda _: True
    )
    scorer = Scorer(
        index, feed, models, model=settings.model_name, weights=settings.tier_weights, unit=settings.block_size
    )
    try:
        with closing(_open(options.events)) as lines:
            recording = Recording(lines)
            total = _Total(as_json=options.json)
            schedule = Schedule(iter(recording), feed)
            with closing(_open(options.prompts)) as prompt_lines:
                async for scored in scorer.timed(PromptLines(prompt_lines), schedule):
                    total.add(scored)
            schedule.finish()
            with closing(_open(options.prompts)) as prompt_lines:
                prompts = PromptLines(prompt_lines)
                async for scored in scorer.final(prompts):
                    total.add(scored)
    finally:
        await models.close()
    _write(total.lines(recording, feed, prompts))
    return 1 if total.different else 0


class _Total:
    """Writes each answer immediately, and sums them up."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self.prompts = self.tokens = self.matched = self.compared = self.different = 0

    def add(self, scored: Scored) -> None:
        self.prompts += 1
        self.tokens += scored.tokens
        self.matched += max(scored.matched.values(), default=0)
        self.compared += scored.differences is not None
        self.different += bool(scored.differences)
        _write([msgspec.json.encode(scored).decode()] if self._json else _lines(scored))

    def lines(self, recording: Recording, feed: Feed, prompts: PromptLines) -> Iterator[str]:
        summed = Summary(
            messages=feed.statistics.messages_received,
            malformed_lines=recording.malformed,
            first_malformed_lines=recording.malformed_lines,
            prompts=self.prompts,
            malformed_prompts=prompts.malformed,
            first_malformed_prompts=prompts.malformed_lines,
            prompt_tokens=self.tokens,
            matched_tokens=self.matched,
            compared=self.compared,
            different=self.different,
        )
        if self._json:
            yield msgspec.json.encode(summed).decode()
            return
        share = f" ({self.matched / self.tokens:.1%})" if self.tokens else ""
        yield f"{self.prompts:,} prompts of {self.tokens:,} tokens after {summed.messages:,} messages;"
        yield f"the best pod of each held {self.matched:,} of them{share}"
        for kind, count, numbers in (
            ("lines of the recording", recording.malformed, recording.malformed_lines),
            ("lines of prompts", prompts.malformed, prompts.malformed_lines),
        ):
            if count:
                yield f"{count:,} malformed {kind} skipped (line {', '.join(map(str, numbers[:10]))})"
        if self.compared:
            yield f"{self.compared - self.different:,} of {self.compared:,} agree with the engines"


def _lines(scored: Scored) -> Iterator[str]:
    scores = scored.scores or {}
    shown = "  ".join(f"{pod} {score:g}" for pod, score in scores.items()) or "null"
    note = "" if scored.reached else "  (the recording does not reach the moment of this line)"
    yield f"{scored.line}: {scored.tokens:,} tokens  {shown}{note}"
    for difference in scored.differences or ():
        yield f"    {difference}"


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _write(lines: Iterable[str]) -> None:
    try:
        for line in lines:
            sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
