from __future__ import annotations

import os
import socket

from orchestrator.host.ports import is_free, listener, listens_on_loopback_only
from tests.command import free_port


def test_a_port_is_free_until_somebody_listens() -> None:
    port = free_port()
    assert is_free("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free("127.0.0.1", port)
        assert not is_free("0.0.0.0", port)


def test_who_listens_is_told_with_its_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert f"(process {os.getpid()})" in str(listener(server.getsockname()[1]))
    assert listener(free_port()) is None


def test_who_listens_on_loopback_only_is_out_of_reach_for_a_container() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert listens_on_loopback_only(server.getsockname()[1])
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert not listens_on_loopback_only(server.getsockname()[1])
    assert not listens_on_loopback_only(free_port())
