"""A worker that dies of its first job."""

from __future__ import annotations

import os
import sys

from service.prompts.workers.serving import READY


def main() -> None:
    os.write(sys.stdout.fileno(), READY)
    sys.stdin.buffer.read(1)
