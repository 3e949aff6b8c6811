"""Engines on this machine, as a container reaches them: recorded events out of real sockets on every interface."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq

from tests.e2e.http import get

_END = b"\xff" * 8


class RecordedEngine:
    """One pod of a recording: a PUB socket, and a ROUTER socket that a thread serves with replays."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], messages: list[list[bytes]]) -> None:
        self._messages = messages
        self._published = 0
        # An XPUB is on the wire what a PUB is, and tells besides when somebody subscribes.
        self._publisher = context.socket(zmq.XPUB)
        self._publisher.rcvtimeo = 20_000
        self._publisher.linger = 0
        self._router = context.socket(zmq.ROUTER)
        self._port = self._publisher.bind_to_random_port("tcp://0.0.0.0")
        self._replay_port = self._router.bind_to_random_port("tcp://0.0.0.0")
        self._replays = threading.Thread(target=self._serve_replays)
        self._replays.start()

    @property
    def endpoint(self) -> str:
        """For --zmq-endpoint: as a user of this machine would write it."""
        return f"tcp://localhost:{self._port},replay=tcp://localhost:{self._replay_port}"

    def play(self, *, lost: frozenset[int]) -> None:
        """Publishes all once somebody listens, but those messages that get lost and only a replay brings."""
        assert self._publisher.recv()[:1] == b"\x01"
        for number, frames in enumerate(self._messages):
            self._published = number + 1
            if number not in lost:
                self._publisher.send_multipart(frames)

    def _serve_replays(self) -> None:
        with self._router:
            self._router.linger = 0
            while True:
                try:
                    identity, _, start = self._router.recv_multipart()
                except zmq.ContextTerminated:
                    return
                for frames in self._messages[: self._published]:
                    if frames[1] >= start:
                        self._router.send_multipart([identity, b"", *frames])
                self._router.send_multipart([identity, b"", b"", _END, b""])

    def close(self) -> None:
        self._publisher.close()

    def join(self) -> None:
        self._replays.join()


class RecordedEngines:
    """All pods of a recording, by name, and what was true of them afterwards."""

    def __init__(self, recordings: Path, name: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        messages: dict[str, list[list[bytes]]] = {}
        for line in (recordings / f"{name}.jsonl").read_text().splitlines():
            message = json.loads(line)
            frames = [base64.b64decode(message[part]) for part in ("topic", "seq", "payload")]
            messages.setdefault(message["pod"], []).append(frames)
        self.pods = {pod: RecordedEngine(self._context, sent) for pod, sent in messages.items()}
        self.last = {pod: int.from_bytes(sent[-1][1], "big") for pod, sent in messages.items()}
        truth: dict[str, Any] = json.loads((recordings / f"{name}.truth.json").read_text())
        self.block_size = int(truth["block_size"])
        self.probes: list[dict[str, Any]] = truth["probes"]
        self.model = str(next(iter(truth["pods"].values()))["topic"].split("@")[2])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for engine in self.pods.values():
            engine.close()
        self._context.term()
        for engine in self.pods.values():
            engine.join()

    def play(self) -> None:
        """Publishes all, some of which gets lost and has to be replayed."""
        for engine in self.pods.values():
            engine.play(lost=frozenset({1, 2}))

    @staticmethod
    def heard(url: str) -> dict[str, int]:
        """The last sequence number that a service has of each pod."""
        return {pod["pod"]: pod["last_sequence"] for pod in json.loads(get(f"{url}/pods"))["pods"]}

    @property
    def endpoint(self) -> str:
        return ",".join(engine.endpoint for engine in self.pods.values())
