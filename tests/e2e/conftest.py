from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from orchestrator.errors import RuntimeUnavailable
from orchestrator.runtimes.base import RuntimeKind
from orchestrator.runtimes.discovery import connect
from tests.command import Command, Commands
from tests.e2e.containers import RuntimeCommand, Up, checkout
from tests.e2e.publishers import RecordedEngines

RUNTIMES = ("podman", "docker")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(1000))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Runs the tests of one runtime in one process, since they share an image and a service.

    pytest-xdist writes its own groups into ids that pytest 9.2 does not read.
    """
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = _runtime_of
    return scheduler


def _runtime_of(nodeid: str) -> str:
    parameters = nodeid.partition("[")[2]
    return next((runtime for runtime in RUNTIMES if runtime in parameters), "neither")


@pytest.fixture(scope="session", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> Iterator[RuntimeCommand]:
    """Each runtime of this machine; one that is missing is skipped, or a failure with KVCACHE_REQUIRE_RUNTIMES."""
    try:
        with closing(connect(RuntimeKind(request.param))):
            pass
    except RuntimeUnavailable as error:
        if os.environ.get("KVCACHE_REQUIRE_RUNTIMES"):
            pytest.fail(error.what)
        pytest.skip(error.what)
    found = RuntimeCommand(request.param)
    yield found
    found.clean_up()


@pytest.fixture(scope="session")
def session(runtime: RuntimeCommand, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """`kvcache`, with a state folder of this runtime's tests."""
    commands = Commands(tmp_path_factory.mktemp(runtime.kind))
    yield commands
    commands.close()


class Running(Up):
    """An `up` in the foreground which built the image, listens to recorded engines and was given a token."""

    TOKEN = "not-a-real-token"  # noqa: S105 - so it says

    def __init__(self, runtime: RuntimeCommand, kvcache: Commands, engines: RecordedEngines) -> None:
        super().__init__(runtime, kvcache, "running")
        self.engines = engines
        options = ("--zmq-endpoint", engines.endpoint, "--block-size", str(engines.block_size))
        # Nobody answers there, so that what needs a token fails at once.
        self.command: Command = self.start(
            *options, "--hf-endpoint", "http://127.0.0.1:9", environment={"HF_TOKEN": self.TOKEN}
        )
        self.command.wait_for("Press Ctrl+C to stop", seconds=900)


@pytest.fixture(scope="session")
def running(runtime: RuntimeCommand, session: Commands, recordings: Path) -> Iterator[Running]:
    with RecordedEngines(recordings, "c_lora_salt") as engines:
        found = Running(runtime, session, engines)
        yield found
        found.command.interrupt()
        found.command.finish()


@pytest.fixture
def make_up(running: Running, runtime: RuntimeCommand, tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Further services, of a `kind`, on the image that is built; `root` is the checkout whose `kvcache` runs them."""
    made: list[Up] = []
    started: list[Commands] = []

    def make(root: Path | None = None, kind: type[Up] = Up) -> Up:
        commands = Commands(tmp_path, root or running.kvcache.root)
        started.append(commands)
        made.append(kind(runtime, commands, f"more-{len(made)}"))
        return made[-1]

    yield make
    for commands in started:
        commands.close()
    for up in made:
        up.remove()


@pytest.fixture
def changed(make_up: Callable[..., Up], tmp_path: Path) -> Callable[[str, str], Up]:
    """Gives an `up` of a checkout whose Containerfile has one text in place of another."""

    def make(old: str, new: str) -> Up:
        copy = checkout(tmp_path / "changed")
        containerfile = copy / "Containerfile"
        text = containerfile.read_text()
        assert old in text
        containerfile.write_text(text.replace(old, new, 1))
        return make_up(copy)

    return make
