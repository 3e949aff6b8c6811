"""A browser for the tests of this folder. They are skipped without Chromium; .ci/browser installs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.service.gateway.conftest import before, route, scripted_engines, start_engine
from tests.service.gateway.routed import Route
from tests.service.ui.browser import Browser

__all__ = ["before", "route", "scripted_engines", "start_engine"]

_STARTED = re.compile(r"started successfully on port (\d+)")


@pytest.fixture(scope="session")
def chromedriver() -> Iterator[str]:
    """The address of a chromedriver."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        _missing("chromium and chromedriver (chromium-driver in Debian) are not on this machine")
    process = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = next(found[1] for line in process.stdout if (found := _STARTED.search(line)))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@pytest.fixture
async def browser(chromedriver: str, route: Route) -> AsyncIterator[Browser]:
    """A browser with a new profile, whose console must be silent at the end. It ends before the service."""
    async with ClientSession(chromedriver) as http:
        browser = await Browser.start(http)
        try:
            yield browser
            assert await browser.complaints() == []
        finally:
            await browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core, which looks for what keeps people out."""
    file = os.environ.get("KVCACHE_AXE", "")
    if not file or not Path(file).is_file():
        _missing("KVCACHE_AXE names no axe.min.js: .ci/browser prints where it puts one")
    return Path(file).read_text(encoding="utf-8")


def _missing(reason: str) -> None:
    if os.environ.get("KVCACHE_REQUIRE_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)
