"""Whole vLLM servers on this machine's CPU, and a kvcache that listens to them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import requests
import zmq

from service.contract.endpoints import Endpoint, format_endpoints
from tests.conftest import ROOT
from tests.ports import unassigned_port

MODEL = "builtin/demo"
BLOCK_SIZE = 32
_SCRIPTS = ROOT / "scripts" / "real_vllm"
_LISTENING = re.compile(r"listening on (http://\S+)")
_ERROR = re.compile(r"^.*(\bERROR\b|Traceback)", re.MULTILINE)
_END = b"\xff" * 8
_TIMEOUT = 300
_START_TIMEOUT = 600


def until(holds: Callable[[], bool]) -> None:
    """Waits until something holds."""
    deadline = time.monotonic() + _TIMEOUT
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@dataclass
class Engine:
    """A vLLM server. `options` are those of `vllm serve`; `log` is the file that it writes to."""

    vllm: Path
    model: Path
    options: Sequence[str]
    log: Path
    ranks: int = 1
    port: int = 0
    name: str = MODEL
    """The model's name in requests and in the topic of events."""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        # Its own, and those that its ranks publish on and replay from.
        self.port = self.port or unassigned_port((0, *range(100, 100 + self.ranks), *range(200, 200 + self.ranks)))

    @property
    def pod(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def endpoints(self) -> list[Endpoint]:
        """Where its ranks publish and answer replays."""
        return [
            Endpoint(f"tcp://127.0.0.1:{self.port + 100 + n}", replay=f"tcp://127.0.0.1:{self.port + 200 + n}")
            for n in range(self.ranks)
        ]

    def start(self) -> None:
        """Starts it; `wait` waits until it is ready."""
        command = [*map(str, (_SCRIPTS / "serve", self.vllm, self.model, self.name, self.port)), *self.options]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def wait(self) -> None:
        """Waits until it answers; fails with its log, from the first error on, when it ends before."""
        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"http://{self.pod}/health", timeout=5).ok:
                    return
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = self.log.read_text(errors="replace")
                # The process that failed writes first; the server then says only that it has.
                shown = log[found.start() :][:8000] if (found := _ERROR.search(log)) is not None else log[-4000:]
                raise AssertionError(f"vLLM did not start ({self.log}): {shown}")
            time.sleep(0.2)

    def kill(self, number: signal.Signals) -> None:
        """Sends a signal to all its processes, and waits until the server has ended."""
        assert self._process is not None
        os.killpg(self._process.pid, number)
        self._process.wait(timeout=20)

    def stop(self) -> None:
        """Ends it with all its processes."""
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=20)
        self._process = None

    def complete(self, **body: Any) -> dict[str, Any]:
        """POST /v1/completions; `rank` chooses the data-parallel rank."""
        return self.post("/v1/completions", **body)

    def post(self, path: str, *, rank: int | None = None, **body: Any) -> dict[str, Any]:
        """Posts JSON and gives the answer's."""
        headers = {} if rank is None else {"X-data-parallel-rank": str(rank)}
        answer = requests.post(f"http://{self.pod}{path}", json=body, headers=headers, timeout=_TIMEOUT)
        assert answer.ok, answer.text
        return dict(answer.json())

    def last_sequences(self) -> list[int]:
        """The number of the last batch that each rank published, -1 for none."""
        return [_last_sequence(str(endpoint.replay)) for endpoint in self.endpoints]


def _last_sequence(address: str) -> int:
    """Asks a replay socket for everything until it has nothing new: between two answers it takes what is queued."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket_:
        socket_.linger = 0
        socket_.rcvtimeo = _TIMEOUT * 1000
        socket_.connect(address)
        last, quiet = -1, 0
        while quiet < 2:
            socket_.send_multipart([b"", (last + 1).to_bytes(8, "big")])
            before = last
            while (sequence := _sequence(socket_.recv_multipart())) != _END:
                last = int.from_bytes(sequence, "big")
            quiet = quiet + 1 if last == before else 0
        return last


def _sequence(frames: list[bytes]) -> bytes:
    """The sequence number in a reply, which has the topic before it since vLLM 0.26."""
    return frames[-2]


class Kvcache:
    """A kvcache in a process of its own."""

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        self.url = url
        self._process = process

    def kill(self) -> None:
        """Ends it at once, without a word to anybody."""
        self._process.kill()
        self._process.wait()

    def is_ready(self) -> bool:
        """Whether GET /ready says so."""
        return requests.get(f"{self.url}/ready", timeout=60).ok

    def explain(self, **body: Any) -> dict[str, Any]:
        """POST /explain."""
        answer = requests.post(f"{self.url}/explain", json=body, timeout=60)
        assert answer.ok, answer.text
        return dict(answer.json())

    def fleet(self) -> dict[str, dict[str, Any]]:
        """What /pods says of each pod that requests are forwarded to."""
        return {pod["name"]: pod for pod in requests.get(f"{self.url}/pods", timeout=60).json()["fleet"]}

    def parity(self, engine: Engine) -> dict[str, Any]:
        """The parity of an engine's only model, when it is known."""
        deadline = time.monotonic() + 120
        while True:
            found = self.fleet()[engine.pod]["parity"]
            if found and found[0]["verdict"] != "unknown":
                return dict(found[0])
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    def post(self, path: str, **body: Any) -> requests.Response:
        answer = requests.post(f"{self.url}{path}", json=body, timeout=60)
        assert answer.ok, answer.text
        return answer

    def pods(self) -> dict[tuple[str, int], dict[str, Any]]:
        """What /pods says of each rank."""
        pods = requests.get(f"{self.url}/pods", timeout=60).json()["pods"]
        return {(pod["pod"], pod["rank"]): pod for pod in pods}

    def hears_anew(self, engine: Engine) -> None:
        """Waits until an engine that started again is heard, and nothing counts that it held before.

        It answers before: the connection for its events is tried again in intervals of seconds.
        """
        ranks = [(engine.pod, rank) for rank in range(engine.ranks)]

        def heard() -> bool:
            pods = self.pods()
            return all(pods[rank]["connected"] and not pods[rank]["blocks"]["gpu"] for rank in ranks)

        until(heard)

    def settle(self, engine: Engine) -> None:
        """Waits until everything that an engine published so far has been applied."""
        expected = {(engine.pod, rank): last for rank, last in enumerate(engine.last_sequences()) if last >= 0}
        deadline = time.monotonic() + 60
        while True:
            pods = self.pods()
            if all(key in pods and pods[key]["last_sequence"] == last for key, last in expected.items()):
                return
            assert time.monotonic() < deadline, (expected, pods)
            time.sleep(0.01)


@contextmanager
def running_kvcache(engines: Sequence[Engine], models_dir: Path, **settings: str) -> Iterator[Kvcache]:
    """Starts a kvcache that listens to engines, with more settings if any."""
    environment = {
        "PATH": os.environ["PATH"],
        "CONTAINER_ENV": "true",
        "MODEL_NAME": MODEL,
        "MODELS_DIR": str(models_dir),
        "ZMQ_ENDPOINT": format_endpoints([endpoint for engine in engines for endpoint in engine.endpoints]),
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": "0",
        **settings,
    }
    command = (sys.executable, "-m", "service", "serve")
    with NamedTemporaryFile("w", dir=models_dir.parent, prefix="kvcache-", suffix=".log", delete=False) as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)
    try:
        until(lambda: process.poll() is not None or _LISTENING.search(Path(log.name).read_text()) is not None)
        found = _LISTENING.search(text := Path(log.name).read_text())
        assert found is not None, text
        yield Kvcache(found[1], process)
    finally:
        process.terminate()
        process.wait()
