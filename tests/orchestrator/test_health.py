from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import islice

import pytest

from orchestrator.health import Answer, ask, backoff, url, who_answers
from tests.command import free_port


@contextmanager
def _server(status: int, body: bytes, instance: str = "") -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            if instance:
                self.send_header("Kvcache-Instance", instance)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_only_ok_is_healthy() -> None:
    with _server(200, b"OK") as port:
        assert who_answers("127.0.0.1", port, "") is Answer.OURS
        assert who_answers("0.0.0.0", port, "") is Answer.OURS
    with _server(200, b"Hello") as port:
        assert who_answers("127.0.0.1", port, "") is Answer.OTHER
    with _server(503, b"OK") as port:
        assert who_answers("127.0.0.1", port, "") is Answer.OTHER
    assert who_answers("127.0.0.1", free_port(), "") is Answer.NOBODY


def test_only_the_instance_that_was_started_is_ours() -> None:
    with _server(200, b"OK", "abc") as port:
        assert who_answers("127.0.0.1", port, "abc") is Answer.OURS
        assert who_answers("127.0.0.1", port, "def") is Answer.OTHER
    with _server(200, b"OK") as port:
        assert who_answers("127.0.0.1", port, "abc") is Answer.OTHER


def test_what_speaks_no_http_is_not_healthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            connection.sendall(b"hello\n")
            connection.close()

        thread = threading.Thread(target=refuse)
        thread.start()
        assert who_answers("127.0.0.1", server.getsockname()[1], "") is not Answer.OURS
        thread.join()


def test_an_answer_is_a_status_and_json() -> None:
    with _server(503, b'{"ready": false}') as port:
        assert ask("127.0.0.1", port, "/ready") == (503, {"ready": False})
    with _server(200, b"no json") as port:
        assert ask("127.0.0.1", port, "/ready") is None


def test_looks_are_close_together_at_first_and_never_more_than_two_seconds_apart() -> None:
    waited = list(islice(backoff(), 30))
    assert waited[0] <= 0.1
    assert waited == sorted(waited)
    assert waited[-1] == 2.0


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("127.0.0.1", "http://localhost:8080"),
        ("0.0.0.0", "http://localhost:8080"),
        ("::", "http://localhost:8080"),
        ("192.168.1.5", "http://192.168.1.5:8080"),
        ("fd00::5", "http://[fd00::5]:8080"),
    ],
)
def test_users_are_told_an_address_that_they_can_use(address: str, shown: str) -> None:
    assert url(address, 8080) == shown
