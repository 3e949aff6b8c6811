from __future__ import annotations

import platform
import subprocess
import sys

import psutil

from orchestrator.host.ownership import Owner, process


def test_this_process_is_an_owner_that_lives_and_reads_back() -> None:
    owner = Owner.this_process()
    read = Owner.parse(str(owner))

    assert read is not None
    assert (read.host, read.pid) == (owner.host, owner.pid)
    assert read.lives


def test_a_process_that_ended_is_no_owner_any_more() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        owner = Owner(platform.node(), child.pid, psutil.Process(child.pid).create_time())
        assert owner.lives
    assert not owner.lives


def test_another_process_with_the_same_number_is_not_taken_for_it() -> None:
    started = psutil.Process().create_time()
    assert process(psutil.Process().pid, started) is not None
    assert process(psutil.Process().pid, started - 3600) is None


def test_a_process_of_another_machine_is_taken_to_live() -> None:
    assert Owner("elsewhere", 1, 0.0).lives


def test_what_is_no_owner_is_not_read_as_one() -> None:
    assert Owner.parse("") is None
    assert Owner.parse("host/pid/soon") is None
