"""Reports why a healthy service is not ready yet (default model, event socket), and when it becomes ready."""

from __future__ import annotations

from typing import Any

from orchestrator.console import Console
from orchestrator.health import ask


class ReadinessWatch:
    """Polls GET /ready and reports changes since the last poll. `last_reported` are the reasons already reported.

    `shared_state_down` is what the last answer said of a shared state that is down: `down since …`, or empty.
    `name` is that of the service in messages, where there are several.
    """

    def __init__(self, console: Console, address: str, port: int, *, tls: bool = False, name: str = "") -> None:
        self._console = console
        self._address = address
        self._port = port
        self._tls = tls
        self._subject = f"{name}: " if name else ""
        self.last_reported: tuple[str, ...] = ()
        self.shared_state_down = ""

    def missing(self) -> tuple[str, ...] | None:
        """Reasons why the service is not ready; empty if it is ready, None if it does not answer."""
        answer = ask(self._address, self._port, "/ready", tls=self._tls)
        if answer is None:
            return None
        said = answer[1].get("shared_state", "") if isinstance(answer[1], dict) else ""
        self.shared_state_down = said if said.startswith("down") else ""
        return reasons(answer[1])

    def tell(self) -> None:
        """Reports new reasons, and when no reason is left."""
        missing = self.missing()
        if missing is None or missing == self.last_reported:
            return
        for reason in missing:
            self._console.warn(
                f"{self._subject}{reason}",
                "The service stays up and tries again; `kvcache status` shows its pods and events, `kvcache doctor` "
                "looks for the cause.",
            )
        if not missing:
            ready = "Ready now: the default model is loaded and all event sockets are up"
            self._console.step(f"{self._subject}{ready}")
        self.last_reported = missing


def reasons(body: Any) -> tuple[str, ...]:
    return tuple(body.get("reasons") or ()) if isinstance(body, dict) else ()
