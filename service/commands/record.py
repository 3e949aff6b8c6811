"""Records the events of engines in a file until Ctrl+C: JSON lines, as tests/recordings/README.md describes them.

Subscribes as the service does. With a replay socket, the file begins with the batches that the engine still buffers,
and has no gaps.
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
from service.contract.units import format_size
from service.events.curve import KeyPair
from service.events.recorder import Recorder
from service.events.recording import Recorded
from service.events.recording_file import RecordingFile

_UPDATE_SECONDS = 0.1


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    try:
        settings = Settings.from_environment(environment)
    except SettingsError as error:
        print(f"record: {error}", file=sys.stderr)  # noqa: T201
        return 1
    options = _options(arguments, settings)
    try:
        own_keys = KeyPair.read(settings.zmq_curve_key) if settings.zmq_curve_key is not None else None
    except (OSError, ValueError) as error:
        print(f"record: ZMQ_CURVE_KEY={settings.zmq_curve_key}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    try:
        with RecordingFile(options.file, append=options.append) as file:
            return asyncio.run(_record(options, file, own_keys))
    except FileExistsError:
        print(f"record: {options.file} exists; use --append to add to it", file=sys.stderr)  # noqa: T201
    except OSError as error:
        print(f"record: {error}", file=sys.stderr)  # noqa: T201
    return 1


def _options(arguments: list[str], settings: Settings) -> argparse.Namespace:
    command = parser(
        "record", __doc__, "events.jsonl.gz --zmq-endpoint 'tcp://10.0.0.7:5557,replay=tcp://10.0.0.7:5558' --for 10m"
    )
    command.add_argument("file", type=Path, help="the file to write")
    command.add_argument(
        "--zmq-endpoint",
        help="ADDRESS[,replay=…][,pod=…][,model=…], separated by commas; * binds (default: ZMQ_ENDPOINT)",
    )
    command.add_argument(
        "--zmq-topic", default=settings.zmq_topic, help="prefix of the topics to record (default: ZMQ_TOPIC)"
    )
    command.add_argument(
        "--model", default=settings.model_name, help="model of topics without one (default: MODEL_NAME)"
    )
    command.add_argument(
        "--for", dest="duration", type=seconds, metavar="TIME", help="stop after this time, such as 60s"
    )
    command.add_argument("--count", type=positive, metavar="N", help="stop after N messages")
    command.add_argument("--append", action="store_true", help="append to an existing file")
    command.add_argument("--quiet", action="store_true", help="do not show progress")
    options = command.parse_args(arguments)
    options.endpoints = settings.zmq_endpoint
    if options.zmq_endpoint is not None:
        try:
            options.endpoints = parse_endpoints(options.zmq_endpoint)
        except ValueError as error:
            command.error(f"--zmq-endpoint: {error}")
    return options


async def _record(options: argparse.Namespace, file: RecordingFile, own_keys: KeyPair | None) -> int:
    count: int | None = options.count

    def write(message: Recorded) -> bool:
        file.write(message)
        return count is None or file.messages < count

    recorder = Recorder(options.endpoints, options.zmq_topic, options.model, write, own_keys)
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
                    progress.update(f"{file.messages:,} messages, {format_size(file.bytes)}")
                    with suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), _UPDATE_SECONDS)
        silent = recorder.silent()
    finally:
        await recorder.close()
    progress.finish(_summary(recorder, file))
    if silent:
        print(f"record: nothing came from {'; '.join(silent)}", file=sys.stderr)  # noqa: T201
    return _outcome(recorder, file)


def _summary(recorder: Recorder, file: RecordingFile) -> str:
    statistics = recorder.statistics
    pods = ", ".join(f"{pod}: {count:,}" for pod, count in sorted(statistics.messages.items())[:8])
    parts = [f"{file.messages:,} messages, {format_size(file.bytes)}, in {file.path}" + (f" ({pods})" if pods else "")]
    for count, meaning in (
        (statistics.replayed, "from replay sockets"),
        (statistics.missing, "missing"),
        (statistics.restarts, "restarts"),
        (statistics.unreadable, "unreadable"),
        (statistics.replay_failures, "failed replays"),
    ):
        if count:
            parts.append(f"{count:,} {meaning}")
    return "; ".join(parts)


def _outcome(recorder: Recorder, file: RecordingFile) -> int:
    error = recorder.ended.exception() if recorder.ended.done() else None
    if error is None:
        return 0
    full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
    reason = "the disk is full" if full else str(error)
    print(f"record: {reason}; {file.path} is complete up to here", file=sys.stderr)  # noqa: T201
    return 1
