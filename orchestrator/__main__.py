"""Entry point of `kvcache` and `python -m orchestrator`."""

from __future__ import annotations

import signal


def main() -> None:
    # While modules load, Ctrl+C ends the process without a traceback from an import; `run_command` restores it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from orchestrator.cli import main as run  # noqa: PLC0415 - after the signal handler is set

    run()


if __name__ == "__main__":
    main()
