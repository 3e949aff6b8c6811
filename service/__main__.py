"""`python -m service [serve]`: the half of kvcache that runs in the container, or as a child process."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress

from service.commands import TOOLS, run_tool
from service.contract.secret_environment import load
from service.contract.settings import AUTO, Settings, SettingsError
from service.workers.cores import number_of_cores
from service.workers.place import Place

_RUN_KVCACHE_UP = """\
This is the service that `kvcache up` builds, starts and watches: run `kvcache up`.
To run it by hand, without a container: CONTAINER_ENV=true python -m service serve"""


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Returns the exit code: 0 after a stop by signal, 1 if the service cannot run, 2 for wrong usage."""
    if arguments and arguments[0] in TOOLS:
        return run_tool(arguments[0], arguments[1:], environment)
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    tools = "; ".join(f"{name}: {meaning}" for name, meaning in TOOLS.items())
    parser.add_argument(
        "command", nargs="?", choices=["serve", *TOOLS], default="serve", help=f"serve: run it; {tools}"
    )
    parser.parse_args(arguments)
    try:
        os.environ.update(load(environment))  # for libraries that read proxies there
        if not Settings.from_environment({"CONTAINER_ENV": environment.get("CONTAINER_ENV", "")}).container_env:
            print(_RUN_KVCACHE_UP, file=sys.stderr)  # noqa: T201
            return 2
        settings = Settings.from_environment(environment)
    except (SettingsError, OSError, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    # Process 1 of a container ignores signals without a handler, and the imports below take a while.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    place = Place.of(environment)
    count = number_of_cores() if settings.workers == AUTO else settings.workers
    if place is None and count > 1:
        from service.workers.supervisor import supervise  # noqa: PLC0415 - needs none of the modules below

        return supervise(settings, count, {**os.environ, **environment})
    gc.disable()  # imported modules are no garbage, and the search for it takes a twelfth of the start
    from service.serving import serve  # noqa: PLC0415 - takes half a second, which wrong usage should not wait for

    return serve(settings, place)


if __name__ == "__main__":
    code = main(sys.argv[1:], os.environ)
    with suppress(OSError):  # a pipe without reader, or a full disk
        sys.stdout.flush()
    # Python would wait for threads with a download or a long text, although their results are not needed.
    os._exit(code)
