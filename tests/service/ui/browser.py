"""A real Chromium, driven by its own chromedriver over the WebDriver protocol (W3C)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import ClientSession

from tests.waiting import PATIENCE

_ELEMENT: Final = "element-6066-11e4-a52e-4f735466cecf"
ENTER, TAB, CONTROL, SHIFT, SPACE = "\ue007", "\ue004", "\ue009", "\ue008", " "
_NETWORK_CHANGED: Final = "ERR_NETWORK_CHANGED"
_OPTIONS: Final = {
    "args": [
        "--headless=new",
        "--no-sandbox",  # tests run as root in CI
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
    ]
}


class Browser:
    """One session of a browser: a new profile, one window."""

    def __init__(self, http: ClientSession, session: str) -> None:
        self._http = http
        self._session = session
        self._complaints: list[str] = []
        self.expected = ""
        """A text of complaints that are expected, whenever they come; empty if none is."""

    @classmethod
    async def start(cls, http: ClientSession) -> Browser:
        """Starts a browser through the chromedriver that is the base of `http`."""
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": _OPTIONS,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        made = await _value(http, "POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        return cls(http, made["sessionId"])

    async def close(self) -> None:
        await self._ask("DELETE", "")

    async def open(self, url: str) -> None:
        """Opens an address, again if the network of this machine changed meanwhile, as it does with containers."""
        interrupted = True
        while interrupted:
            await self._ask("POST", "/url", {"url": url})
            entries = await self._ask("POST", "/se/log", {"type": "browser"})
            interrupted = any(_NETWORK_CHANGED in entry["message"] for entry in entries)
            self._complaints += _serious(entries)

    async def before_each_page(self, script: str) -> None:
        """Runs JavaScript in each page before its own."""
        await self._cdp("Page.addScriptToEvaluateOnNewDocument", {"source": script})

    async def script(self, body: str, *arguments: object) -> Any:
        """Runs JavaScript; the value that it returns, or that its promise gives."""
        return await self._ask("POST", "/execute/sync", {"script": body, "args": list(arguments)})

    async def see(self, body: str, *arguments: object) -> Any:
        """Waits until an expression of JavaScript is true, and returns its value."""
        async with asyncio.timeout(PATIENCE):
            while not (value := await self.script(f"return ({body})", *arguments)):  # noqa: ASYNC110 - of a browser
                await asyncio.sleep(0.02)
        return value

    async def see_text(self, selector: str, text: str) -> None:
        """Waits until an element has this in its text."""
        await self.see("document.querySelector(arguments[0])?.textContent.includes(arguments[1])", selector, text)

    async def text(self, selector: str) -> str:
        """The text of an element as it is seen."""
        return str(await self.script("return document.querySelector(arguments[0]).innerText", selector))

    async def click(self, selector: str) -> None:
        """Clicks as a mouse does: fails if something is in front of the element."""
        await self._ask("POST", f"/element/{await self._find(selector)}/click", {})

    async def type(self, selector: str, text: str) -> None:
        await self._ask("POST", f"/element/{await self._find(selector)}/value", {"text": text})

    async def press(self, *keys: str) -> None:
        """Presses keys one after the other, where the focus is."""
        for key in keys:
            await self.chord(key)

    async def chord(self, *keys: str) -> None:
        """Presses keys together."""
        downs = [{"type": "keyDown", "value": key} for key in keys]
        ups = [{"type": "keyUp", "value": key} for key in reversed(keys)]
        actions = [{"type": "key", "id": "keyboard", "actions": [*downs, *ups]}]
        await self._ask("POST", "/actions", {"actions": actions})

    async def look(self, width: int, height: int, scheme: str = "light") -> None:
        """Makes the window so large in pixels, and the system's colours `light` or `dark`."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self._cdp("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self._cdp("Emulation.setEmulatedMedia", {"features": features})

    async def complaints(self) -> list[str]:
        """Warnings and errors in the console since the last call, but the expected ones."""
        complaints = self._complaints + _serious(await self._ask("POST", "/se/log", {"type": "browser"}))
        self._complaints = []
        return [complaint for complaint in complaints if not self.expected or self.expected not in complaint]

    async def hosts(self) -> set[str]:
        """Where requests went since the last call."""
        entries = await self._ask("POST", "/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        urls = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        return {urlsplit(url).netloc for url in urls if not url.startswith(("data:", "blob:"))}

    async def _find(self, selector: str) -> str:
        found = await self._ask("POST", "/element", {"using": "css selector", "value": selector})
        return str(found[_ELEMENT])

    async def _cdp(self, command: str, parameters: Mapping[str, object]) -> None:
        await self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    async def _ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        return await _value(self._http, method, f"/session/{self._session}{path}", body)


def _serious(entries: list[dict[str, str]]) -> list[str]:
    serious = [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]
    return [message for message in serious if _NETWORK_CHANGED not in message]


async def _value(http: ClientSession, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
    async with http.request(method, path, json=body) as answer:
        value = (await answer.json())["value"]
        assert answer.status == 200, f"{method} {path}: {value}"
        return value
