from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import pytest

from service.__main__ import main
from tests.conftest import ROOT
from tests.service.events.conftest import listen

__all__ = ["Tool", "listen", "tool"]


class Finished(NamedTuple):
    """The end of a tool, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


Tool: TypeAlias = Callable[..., Finished]


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """Leaves the level of the service's log as it was, which a tool that is run within a test changes."""
    logger = logging.getLogger("service")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Runs `python -m service …` to its end, in this process."""
    monkeypatch.chdir(ROOT)

    def run(*arguments: object, **environment: str) -> Finished:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments], {**os.environ, **environment})
        except SystemExit as error:  # argparse: the usage is wrong
            assert isinstance(error.code, int)
            code = error.code
        return Finished(code, *capsys.readouterr())

    return run
