"""Changes of pods at run time, which all replicas make: POST, PATCH and DELETE /pods."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import msgspec

from service.contract.pods import parse_pods
from service.fleet.registry import Pod, Registry
from service.replicas.shared.state import SharedState

logger = logging.getLogger(__name__)

_PODS: Final = "pods"
_REMOVED_SECONDS: Final = 86_400.0
"""How long a replica that starts removes a pod of its own settings that was removed at run time."""


class _Pod(msgspec.Struct, frozen=True):
    """A change of a pod. `entry` is set for a pod that was added at run time, in the form of PODS."""

    entry: str | None = None
    draining: bool = False
    weight: float = 1.0
    removed: bool = False


_decode = msgspec.json.Decoder(_Pod).decode


class SharedPods:
    """Tells the other replicas of changes, and makes theirs here.

    `forget` is called with the name of a pod that another replica has removed.
    """

    def __init__(self, shared: SharedState, fleet: Registry, forget: Callable[[str], object]) -> None:
        self._shared = shared
        self._fleet = fleet
        self._forget = forget
        self._told: dict[str, _Pod] = {}
        self._is_own = False
        """Whether the change that is told of was made here."""
        shared.watch(_PODS, self._changed)
        fleet.watch(self._listed)

    def added(self, pod: Pod) -> None:
        self._put(pod.name, _Pod(str(pod.entry), pod.draining, pod.weight))

    def changed(self, pod: Pod) -> None:
        """Tells of a pod that drains, or has another weight."""
        known = self._told.get(pod.name)
        entry = known.entry if known is not None and not known.removed else None
        self._put(pod.name, _Pod(entry, pod.draining, pod.weight))

    def removed(self, name: str) -> None:
        self._put(name, _Pod(removed=True), _REMOVED_SECONDS)

    def _put(self, name: str, pod: _Pod, seconds: float | None = None) -> None:
        self._is_own = True
        try:
            self._shared.put(_PODS, name, msgspec.json.encode(pod), seconds)
        finally:
            self._is_own = False

    def _changed(self, name: str, value: bytes | None) -> None:
        if value is None:  # the end of a removal, which is a value of its own
            self._told.pop(name, None)
            return
        told = self._told[name] = _decode(value)
        if self._is_own:
            return
        pod = self._fleet.get(name)
        if told.removed:
            self._fleet.remove(name)
            self._forget(name)
        elif pod is not None:
            pod.draining, pod.weight = told.draining, told.weight
        elif told.entry is not None:
            try:
                (entry,) = parse_pods(told.entry)
                self._fleet.add(entry)
            except (OSError, ValueError) as error:
                logger.warning("A pod that another replica knows cannot be added: %s", error)

    def _listed(self, pod: Pod, is_there: bool) -> None:
        told = self._told.get(pod.name)
        if is_there and told is not None and not told.removed:
            pod.draining, pod.weight = told.draining, told.weight
