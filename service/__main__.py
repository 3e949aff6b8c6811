"""`python -m service [serve]`: the half of kvcache that runs in the container, or as a child process."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping

from service import log
from service.app import create_app
from service.commands import TOOLS, run_tool
from service.server import ListenError, listening
from service.settings import Settings, SettingsError

logger = logging.getLogger("service")

_ELSEWHERE = """\
This is the service that `kvcache up` builds, starts and watches: run `kvcache up`.
To run it by hand, without a container: CONTAINER_ENV=true python -m service serve"""


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Gives the exit code: 0 after a stop by signal, 1 when the service cannot run, 2 for wrong usage."""
    if arguments and arguments[0] in TOOLS:
        return run_tool(arguments[0], arguments[1:], environment)
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    tools = "; ".join(f"{name}: {meaning}" for name, meaning in TOOLS.items())
    parser.add_argument(
        "command", nargs="?", choices=["serve", *TOOLS], default="serve", help=f"serve: run it; {tools}"
    )
    parser.parse_args(arguments)
    try:
        if not Settings.from_environment({"CONTAINER_ENV": environment.get("CONTAINER_ENV", "")}).container_env:
            print(_ELSEWHERE, file=sys.stderr)  # noqa: T201
            return 2
        settings = Settings.from_environment(environment)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    log.configure(settings.log_format, settings.log_level)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(serve(settings))
    except ListenError as error:
        logger.error("%s", error)  # noqa: TRY400 - the sentence says it all
        return 1
    return 0


async def serve(settings: Settings) -> None:
    """Runs the service until SIGTERM or SIGINT; raises ListenError."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with listening(create_app(settings)) as port:
        logger.info("listening on http://%s:%d", settings.http_host, port)
        await stop.wait()
        logger.info("Received shutdown signal")
    logger.info("stopped")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    code = main(sys.argv[1:], os.environ)
    sys.stdout.flush()
    # Python would wait for threads that are in a download or in a long text; nobody waits for their results.
    os._exit(code)
