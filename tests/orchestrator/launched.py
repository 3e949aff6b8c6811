"""A service that tests start as a child process, with the built-in model, on a free port."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from http.client import HTTPConnection

import psutil

from tests.command import Command, Commands, Finished, free_port
from tests.waiting import PATIENCE


class Up:
    """An `up` of the built-in model on a free port, as `name`."""

    def __init__(self, kvcache: Commands, name: str = "kv-test") -> None:
        self.kvcache = kvcache
        self.name = name
        self.port = free_port()
        self.folder = kvcache.state / "process" / name

    def arguments(self, *more: str) -> tuple[str, ...]:
        options = ("--runtime", "process", "--name", self.name, "--port", str(self.port), "--model", "builtin/demo")
        patient = ("--timeout", str(PATIENCE))
        return ("up", *options, *patient, "--zmq-endpoint", f"tcp://127.0.0.1:{free_port()}", *more)

    def start(self, *more: str, **environment: str) -> Command:
        return self.kvcache.start(*self.arguments(*more), environment=environment)

    def run(self, *more: str, **environment: str) -> Finished:
        return self.start(*more, **environment).finish()

    @property
    def service(self) -> psutil.Process:
        return psutil.Process(json.loads((self.folder / "process.json").read_text())["pid"])

    def get(self, path: str) -> tuple[int, str]:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def left(self) -> list[str]:
        """What is left of it: its folder, a listener."""
        with socket.socket() as probe:
            listens = probe.connect_ex(("127.0.0.1", self.port)) == 0
        return [*(["folder"] if self.folder.exists() else []), *(["listener"] if listens else [])]
