"""Writes what engines publish to a file, until Ctrl+C: JSON lines, as tests/recordings/README.md describes them.

Subscribes as the service does. With a replay socket the file begins with what the engine still has of the past, and has
no gaps.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from service.commands.command_line import parser, positive, seconds
from service.commands.progress import Progress
from service.contract.endpoints import parse_endpoints
from service.contract.settings import Settings, SettingsError
from service.events.recorder import Recorder
from service.events.recording import Recorded
from service.events.recording_file import RecordingFile
from service.offline.table import size

_SHOWN_SECONDS = 0.1


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    try:
        settings = Settings.from_environment(environment)
    except SettingsError as error:
        print(f"record: {error}", file=sys.stderr)  # noqa: T201
        return 1
    options = _options(arguments, settings)
    try:
        with RecordingFile(options.file, append=options.append) as file:
            return asyncio.run(_record(options, file))
    except FileExistsError:
        print(f"record: {options.file} is there already; --append goes on in it", file=sys.stderr)  # noqa: T201
    except OSError as error:
        print(f"record: {error}", file=sys.stderr)  # noqa: T201
    return 1


def _options(arguments: list[str], settings: Settings) -> argparse.Namespace:
    made = parser("record", __doc__)
    made.add_argument("file", type=Path, help="where to write")
    made.add_argument(
        "--zmq-endpoint",
        help="ADDRESS[,replay=…][,pod=…][,model=…], several separated by commas; one with * is bound (ZMQ_ENDPOINT)",
    )
    made.add_argument("--zmq-topic", default=settings.zmq_topic, help="only topics that start with this (ZMQ_TOPIC)")
    made.add_argument("--model", default=settings.model_name, help="model of topics that name none (MODEL_NAME)")
    made.add_argument("--for", dest="duration", type=seconds, metavar="TIME", help="stop after that time, such as 60s")
    made.add_argument("--count", type=positive, metavar="N", help="stop after so many messages")
    made.add_argument("--append", action="store_true", help="go on in a file that is there")
    made.add_argument("--quiet", action="store_true", help="no live count")
    options = made.parse_args(arguments)
    options.endpoints = settings.zmq_endpoint
    if options.zmq_endpoint is not None:
        try:
            options.endpoints = parse_endpoints(options.zmq_endpoint)
        except ValueError as error:
            made.error(f"--zmq-endpoint: {error}")
    return options


async def _record(options: argparse.Namespace, file: RecordingFile) -> int:
    count: int | None = options.count

    def write(message: Recorded) -> bool:
        file.write(message)
        return count is None or file.messages < count

    recorder = Recorder(options.endpoints, options.zmq_topic, options.model, write)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    recorder.ended.add_done_callback(lambda _: stop.set())
    progress = Progress(quiet=options.quiet)
    recorder.start()
    try:
        if problems := recorder.problems():
            print(f"record: {'; '.join(problems)}", file=sys.stderr)  # noqa: T201
            return 1
        with suppress(TimeoutError):
            async with asyncio.timeout(options.duration):
                while not stop.is_set():
                    progress.say(f"{file.messages:,} messages, {size(file.bytes)}")
                    with suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), _SHOWN_SECONDS)
    finally:
        await recorder.close()
    progress.end(_summary(recorder, file))
    return _outcome(recorder, file)


def _summary(recorder: Recorder, file: RecordingFile) -> str:
    statistics = recorder.statistics
    pods = ", ".join(f"{pod}: {count:,}" for pod, count in sorted(statistics.messages.items())[:8])
    said = [f"{file.messages:,} messages, {size(file.bytes)}, in {file.path}" + (f" ({pods})" if pods else "")]
    for count, what in (
        (statistics.replayed, "from replay sockets"),
        (statistics.missing, "missing"),
        (statistics.restarts, "restarts"),
        (statistics.unreadable, "unreadable"),
        (statistics.replay_failures, "replays that failed"),
    ):
        if count:
            said.append(f"{count:,} {what}")
    return "; ".join(said)


def _outcome(recorder: Recorder, file: RecordingFile) -> int:
    error = recorder.ended.exception() if recorder.ended.done() else None
    if error is None:
        return 0
    full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
    reason = "the disk is full" if full else str(error)
    print(f"record: {reason}; what {file.path} has can be read to its end", file=sys.stderr)  # noqa: T201
    return 1
