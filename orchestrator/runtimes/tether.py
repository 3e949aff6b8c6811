"""Runs a command that ends when its parent does: `tether.py PARENT_PID COMMAND…` (Linux; elsewhere it only runs it).

A killed `kvcache` cannot stop its children, so the kernel does. Runs as a file and imports nothing of ours.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            return
    os.execvp(command[0], command)  # noqa: S606 - the command comes from our own caller


if __name__ == "__main__":
    main()
