"""Publishes a recording as its engines did: a publisher, with a replay socket, for each of its streams.

Begins when every stream has a subscriber. An address with * is bound and any other connected to, as vLLM does; the
second stream gets the next port, and so on.
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
from service.events.recording import Recorded, Recording
from service.simulation.replayer import NoRoom, Replayer, Target, find_streams

_REPLAY_PORTS_ABOVE = 100


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    options = _options(arguments)
    try:
        return asyncio.run(_replay(options))
    except (OSError, NoRoom, zmq.ZMQError) as error:
        print(f"replay: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 0 if options.stay else 130


def _options(arguments: list[str]) -> argparse.Namespace:
    made = parser("replay", __doc__)
    made.add_argument("file", type=Path, help="a recording, as `record` writes it")
    made.add_argument("--to", required=True, metavar="ADDRESS", help="where to publish, such as tcp://*:5557")
    made.add_argument(
        "--replay",
        metavar="ADDRESS",
        help=f"where to answer replays (if --to is a bound port: the one {_REPLAY_PORTS_ABOVE} above; else nowhere)",
    )
    made.add_argument("--no-replay", action="store_true", help="no replay sockets")
    made.add_argument("--bind", action="store_true", help="bind --to though it has no *, such as tcp://127.0.0.1:5557")
    pace = made.add_mutually_exclusive_group()
    pace.add_argument("--speed", type=above_zero, help="1 is the original pace, 10 ten times that (as fast as it goes)")
    pace.add_argument("--original", dest="speed", action="store_const", const=1.0, help="at the original pace")
    made.add_argument("--stay", action="store_true", help="answer replays afterwards, until Ctrl+C")
    made.add_argument("--quiet", action="store_true", help="no live count")
    options = made.parse_args(arguments)
    for address in filter(None, (options.to, options.replay)):
        try:
            parse_endpoints(address)
        except ValueError as error:
            made.error(str(error))
    return options


def _target(options: argparse.Namespace) -> Target:
    binds = options.bind or Endpoint(options.to).binds
    replay: str | None = options.replay
    if replay is None and binds and options.to.startswith("tcp://"):
        host, _, port = options.to.rpartition(":")
        replay = f"{host}:{port if port == '*' else int(port) + _REPLAY_PORTS_ABOVE}"
    return Target(options.to, None if options.no_replay else replay, binds)


async def _replay(options: argparse.Namespace) -> int:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this runs in one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with options.file.open("rb") as lines:
        streams = find_streams(Recording(lines))
    if not streams:
        print(f"replay: {options.file} holds no message", file=sys.stderr)  # noqa: T201
        return 1
    progress = Progress(quiet=options.quiet)
    target = _target(options)
    async with Replayer(streams, target) as replayer:
        _introduce(replayer, target)
        await replayer.subscribed()
        with options.file.open("rb") as lines:
            recording = Recording(lines)
            count = 0
            async for _ in replayer.play(_messages(recording), options.speed):
                count += 1
                progress.say(f"{count:,} messages of {len(streams)} streams")
        malformed = f"; {recording.malformed:,} malformed lines passed over" if recording.malformed else ""
        progress.end(f"{count:,} messages of {len(streams)} streams published{malformed}")
        if options.stay:
            await asyncio.Event().wait()
    return 0


def _messages(recording: Recording) -> Iterator[Recorded]:
    yield from recording


def _introduce(replayer: Replayer, target: Target) -> None:
    """Says how a service is to be started to hear this."""
    if target.binds:
        entries = []
        for endpoint in replayer.endpoints:
            named = f",pod={endpoint.pod}" if endpoint.pod else ""
            entries.append(f"{endpoint.address}{named}" + (f",replay={endpoint.replay}" if endpoint.replay else ""))
        print(f"publishing for ZMQ_ENDPOINT={','.join(entries)}", file=sys.stderr)  # noqa: T201
    print("waiting for a subscriber of each stream", file=sys.stderr)  # noqa: T201
