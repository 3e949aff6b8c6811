from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from orchestrator.runtimes import tether
from tests.command import wait_until

_PARENT = f"""
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-IS", {tether.__file__!r}, str(os.getpid()), "sleep", "60"])
print(child.pid, flush=True)
input()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parents")
def test_a_child_ends_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        wait_until(lambda: child.name() == "sleep")
        parent.kill()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parents")
def test_a_parent_that_is_gone_already_gets_no_child() -> None:
    done = subprocess.run([sys.executable, tether.__file__, "1", "echo", "started"], check=True, capture_output=True)
    assert os.getpid() != 1
    assert done.stdout == b""
