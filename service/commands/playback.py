"""Publishes a recording as its engines did: one publisher, with a replay socket, for each stream.

Starts when every stream has a subscriber. An address with * is bound and any other connected to, as vLLM does; each
further stream takes the next port.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import zmq

from service.commands.command_line import above_zero, parser
from service.commands.progress import Progress
from service.contract.endpoints import Endpoint, parse_endpoints
from service.events.recording import NotARecording, Recorded, Recording
from service.simulation.playback import Addresses, Playback, TooManyStreams, find_streams

_REPLAY_PORT_OFFSET = 100


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    options = _options(arguments)
    try:
        return asyncio.run(_play(options))
    except NotARecording as error:
        print(f"replay: {options.file} cannot be read: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except (OSError, TooManyStreams, zmq.ZMQError) as error:
        print(f"replay: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 0 if options.stay else 130


def _options(arguments: list[str]) -> argparse.Namespace:
    command = parser("replay", __doc__, "events.jsonl --to 'tcp://*:5557'")
    command.add_argument("file", type=Path, help="a recording, as `record` writes it")
    command.add_argument("--to", required=True, metavar="ADDRESS", help="address to publish at, such as tcp://*:5557")
    command.add_argument(
        "--replay",
        metavar="ADDRESS",
        help=f"address of the replay socket (default: the port of a bound --to plus {_REPLAY_PORT_OFFSET}, else none)",
    )
    command.add_argument("--no-replay", action="store_true", help="no replay sockets")
    command.add_argument(
        "--bind", action="store_true", help="bind --to although it has no *, such as tcp://127.0.0.1:5557"
    )
    pace = command.add_mutually_exclusive_group()
    pace.add_argument("--speed", type=above_zero, help="times the recorded rate (default: as fast as possible)")
    pace.add_argument(
        "--original", dest="speed", action="store_const", const=1.0, help="at the recorded rate: --speed 1"
    )
    command.add_argument("--stay", action="store_true", help="keep the replay sockets open afterwards, until Ctrl+C")
    command.add_argument("--quiet", action="store_true", help="do not show progress")
    options = command.parse_args(arguments)
    for address in filter(None, (options.to, options.replay)):
        try:
            parse_endpoints(address)
        except ValueError as error:
            command.error(str(error))
    return options


def _addresses(options: argparse.Namespace) -> Addresses:
    binds = options.bind or Endpoint(options.to).binds
    replay: str | None = options.replay
    if replay is None and binds and options.to.startswith("tcp://"):
        host, _, port = options.to.rpartition(":")
        replay = f"{host}:{port if port == '*' else int(port) + _REPLAY_PORT_OFFSET}"
    return Addresses(options.to, None if options.no_replay else replay, binds)


async def _play(options: argparse.Namespace) -> int:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - asyncio.run makes one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with options.file.open("rb") as lines:
        streams = find_streams(Recording(lines))
    if not streams:
        print(f"replay: {options.file} has no messages", file=sys.stderr)  # noqa: T201
        return 1
    progress = Progress(quiet=options.quiet)
    addresses = _addresses(options)
    async with Playback(streams, addresses) as playback:
        _print_endpoints(playback, addresses)
        await playback.subscribed()
        with options.file.open("rb") as lines:
            recording = Recording(lines)
            count = 0
            async for _ in playback.play(_messages(recording), options.speed):
                count += 1
                progress.update(f"{count:,} messages of {len(streams)} streams")
        malformed = f"; {recording.malformed:,} malformed lines skipped" if recording.malformed else ""
        progress.finish(f"{count:,} messages of {len(streams)} streams published{malformed}")
        if options.stay:
            await asyncio.Event().wait()
    return 0


def _messages(recording: Recording) -> Iterator[Recorded]:
    yield from recording


def _print_endpoints(playback: Playback, addresses: Addresses) -> None:
    """Prints the service setting that subscribes to this playback."""
    if addresses.binds:
        entries = []
        for endpoint in playback.endpoints:
            named = f",pod={endpoint.pod}" if endpoint.pod else ""
            entries.append(f"{endpoint.address}{named}" + (f",replay={endpoint.replay}" if endpoint.replay else ""))
        print(f"publishing for ZMQ_ENDPOINT={','.join(entries)}", file=sys.stderr)  # noqa: T201
    print("waiting for a subscriber of each stream", file=sys.stderr)  # noqa: T201
