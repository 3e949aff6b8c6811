"""Runs simulated LLM engines with vLLM's HTTP endpoints, event streams and replay sockets, until Ctrl+C.

They compute nothing: prefill and decoding take time, replies are made up. Prefix caches, cache events and token counts
are those of real engines. `POST /simulation/faults` of an engine makes its next requests fail.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping

from service.commands.command_line import above_zero, parser, positive, seconds
from service.contract.settings import Settings, SettingsError


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    options = _read(arguments)
    # `--help` needs no package of the service.
    from service.prompts.errors import ModelNotFound, ModelUnavailable  # noqa: PLC0415
    from service.simulation.engines import Engines, run  # noqa: PLC0415
    from service.simulation.scheduler import Speed  # noqa: PLC0415
    from service.simulation.server import EngineOptions, Part  # noqa: PLC0415

    first = EngineOptions(
        served_models=options.served_model_name or [options.model],
        host=options.host,
        port=options.port,
        ranks=options.ranks,
        blocks=options.blocks,
        block_size=options.block_size,
        seed=options.seed,
        topic=options.topic,
        without=frozenset(map(Part, options.without)),
        speed=Speed(options.prefill_rate, options.decode_time, options.max_running),
    )
    try:
        asyncio.run(run(Engines(options.model, options.pods, first), Settings.from_environment(environment)))
    except (SettingsError, OSError, ModelNotFound, ModelUnavailable) as error:
        print(f"simulate: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _read(arguments: list[str]) -> argparse.Namespace:
    command = parser("simulate", __doc__, "--pods 3", "--pods 1 --host 0.0.0.0 --without events")
    command.add_argument("--pods", type=positive, default=2, metavar="N", help="number of engines (2)")
    command.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; containers need 0.0.0.0 (127.0.0.1)"
    )
    command.add_argument("--port", type=int, default=8000, help="port of the first engine; 0: any free ports (8000)")
    command.add_argument("--model", default="builtin/demo", help="model whose tokenizer is used (builtin/demo)")
    command.add_argument("--served-model-name", action="append", metavar="NAME", help="name in requests (--model)")
    command.add_argument("--ranks", type=positive, default=1, help="data-parallel ranks of each engine (1)")
    command.add_argument("--blocks", type=positive, default=4096, help="blocks in each rank's cache (4096)")
    command.add_argument("--block-size", type=positive, default=16, help="tokens per block (16)")
    command.add_argument("--prefill-rate", type=above_zero, default=20_000, help="prompt tokens per second (20000)")
    command.add_argument("--decode-time", type=seconds, default=0.01, metavar="TIME", help="time per token (10ms)")
    command.add_argument("--max-running", type=positive, default=16, help="concurrent requests of each rank (16)")
    command.add_argument("--topic", default="kv@{pod}@{model}", help="topic of events (kv@{pod}@{model})")
    command.add_argument(
        "--without",
        action="append",
        choices=("events", "replay", "kv-event-sources", "prompt-tokens-details"),
        default=[],
        help="leave out a part, as an engine whose options or version lack it; may be repeated",
    )
    command.add_argument("--seed", type=int, default=0, help="seed of block hashes (0)")
    return command.parse_args(arguments)
