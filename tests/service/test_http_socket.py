from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector

from service.contract.api_keys import parse_api_keys
from service.server import ListenError
from tests.service.conftest import Serve


def at(path: Path) -> ClientSession:
    return ClientSession("http://kvcache", connector=UnixConnector(str(path)))


async def test_the_socket_answers_as_the_port_does(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    await serve(http_socket=path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    async with at(path) as client:
        async with client.get("/health") as answer:
            assert (answer.status, await answer.text()) == (200, "OK")
        async with client.post("/score", json={"prompt": [1, 2, 3]}) as answer:
            assert (answer.status, await answer.json()) == (200, None)
        async with client.post("/score", data=b"{") as answer:
            assert answer.status == 400


async def test_the_socket_asks_for_keys_too(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    await serve(http_socket=path, api_keys=parse_api_keys("a:read:0123456789abcdef"))
    async with at(path) as client, client.post("/score", json={"prompt": [1]}) as answer:
        assert answer.status == 401


async def test_a_socket_that_a_former_process_left_is_replaced(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    await serve(http_socket=path)
    async with at(path) as client, client.get("/health") as answer:
        assert answer.status == 200


async def test_a_path_in_use_is_refused_with_the_reason(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    await serve(http_socket=path)
    with pytest.raises(ListenError, match=r"HTTP_SOCKET=.*: Address already in use"):
        await serve(http_socket=path)
    async with at(path) as client, client.get("/health") as answer:
        assert answer.status == 200
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ListenError, match="it exists and is no socket"):
        await serve(http_socket=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"
    with pytest.raises(ListenError, match="up to 107 bytes"):
        await serve(http_socket=tmp_path / ("x" * 200))
    with pytest.raises(ListenError, match="No such file"):
        await serve(http_socket=tmp_path / "none" / "http.sock")
