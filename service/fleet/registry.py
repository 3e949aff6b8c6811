"""The registry of pods with a URL, and their state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from time import monotonic

import msgspec

from service.contract.endpoints import Endpoint
from service.contract.pods import PodEntry
from service.fleet.breaker import CircuitBreaker
from service.fleet.parity import UNASKED, Agreement, Parity, Verdict, agreement, render_equally

_MAX_AGREEMENTS = 1000


class EngineKind(StrEnum):
    VLLM = "vllm"
    SGLANG = "sglang"


class ServedModel(msgspec.Struct, frozen=True):
    """A model as the engine's /v1/models lists it; `parent` is the base model of a LoRA adapter."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class Learned(msgspec.Struct, frozen=True):
    """Information from an engine about itself. `ranks` are its data-parallel ranks, `sources` their event endpoints."""

    models: tuple[ServedModel, ...]
    sources: tuple[Endpoint, ...] = ()
    ranks: int = 1
    event_names: frozenset[str] = frozenset()
    """Names of the pod in the topics of its events, if they have any."""
    version: str | None = None
    engine: EngineKind | None = None
    tells_sources: bool = False
    """Whether it says where its events are, or that it publishes none."""


class RankLoad(msgspec.Struct, frozen=True):
    """A rank's load, from its engine's /metrics: requests, KV-cache usage from 0 to 1, and tokens since its start."""

    running: float = 0.0
    waiting: float = 0.0
    cache_usage: float = 0.0
    queried_tokens: float = 0.0
    """Prompt tokens that were looked up in the prefix cache, of which `hit_tokens` were found."""
    hit_tokens: float = 0.0
    hit_rate: float | None = None
    """Share of cache hits from 0 to 1, from an engine that gives it in place of tokens."""


class Pod(msgspec.Struct, eq=False):
    """One pod. `in_flight` counts the requests of all replicas, as far as this one knows, and `in_flight_elsewhere`
    those of the others; `busy_until` is the end of the engine's Retry-After.
    """

    entry: PodEntry
    breaker: CircuitBreaker = msgspec.field(default_factory=CircuitBreaker)
    learned: Learned | None = None
    healthy: bool | None = None
    """Result of the last health check; None before the first."""
    problem: str | None = None
    draining: bool = False
    """Set by the operator."""
    withheld: bool = False
    """Set by its source while it says that the pod is not ready, or about to end."""
    weight: float = 1.0
    in_flight: int = 0
    in_flight_elsewhere: int = 0
    busy_until: float = 0.0
    load: dict[int, RankLoad] = msgspec.field(default_factory=dict)
    key: str | None = None
    on_doubt: Callable[[], None] = lambda: None
    """To be called if a request names a model that no pod lists: an engine may have loaded it since."""
    parity: dict[str, Parity] = msgspec.field(default_factory=dict)
    """By model; change it with `Registry.set_parity`."""

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def event_names(self) -> tuple[str, ...]:
        """The names under which it may publish events; the first one is in its topics if they name a pod."""
        named = self.learned.event_names if self.learned is not None else frozenset[str]()
        return (*sorted(named), self.name)

    def serves(self, model: str | None) -> bool:
        """Whether it serves a model; True while its models are unknown."""
        return model is None or not self.models or any(served.id == model for served in self.models)

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """The models that its engine lists; none while they are unknown."""
        return self.learned.models if self.learned is not None else ()

    @property
    def is_sglang(self) -> bool:
        return self.learned is not None and self.learned.engine is EngineKind.SGLANG

    @property
    def is_draining(self) -> bool:
        """Whether it gets no new requests."""
        return self.draining or self.withheld

    @property
    def is_available(self) -> bool:
        return not self.is_draining and self.healthy is not False and self.breaker.allows()

    @property
    def is_busy(self) -> bool:
        """Whether the engine refused a request, and its Retry-After has not passed."""
        return monotonic() < self.busy_until

    @property
    def sources(self) -> tuple[Endpoint, ...]:
        """Its event endpoints: the configured one, otherwise those from the engine."""
        if (given := self.entry.endpoint) is not None:
            return (given,)
        return self.learned.sources if self.learned else ()


Watcher = Callable[[Pod, bool], None]


class Registry:
    """Pods by name. Watchers are called with a pod, and True after its addition, False after its removal."""

    def __init__(self) -> None:
        self.expects_pods = False
        """Whether pods may join later, or have been there: requests are refused while there is none, and not answered
        by this service.
        """
        self._pods: dict[str, Pod] = {}
        self._servers: dict[tuple[bool, str, int, str], str] = {}
        """The name of the pod at each host and port."""
        self._watchers: list[Watcher] = []
        self._of_server: dict[str, Parity] = {}
        self._agreements: dict[tuple[str, bool, frozenset[str] | None], Agreement] = {}

    def __iter__(self) -> Iterator[Pod]:
        return iter(self._pods.values())

    def __len__(self) -> int:
        return len(self._pods)

    @property
    def receives_requests(self) -> bool:
        """Whether requests are for pods: there are some, or some are expected."""
        return bool(self._pods) or self.expects_pods

    def get(self, name: str) -> Pod | None:
        return self._pods.get(name)

    def watch(self, watcher: Watcher) -> None:
        """Registers a watcher, and calls it for all present pods."""
        self._watchers.append(watcher)
        for pod in self:
            watcher(pod, True)

    def add(self, entry: PodEntry) -> Pod:
        """Adds a pod. Raises ValueError if its name or URL is taken, OSError if its key file cannot be read."""
        if entry.name in self._pods:
            raise ValueError(f"there is a pod {entry.name} already")
        if (twin := self._servers.get(entry.server)) is not None:
            raise ValueError(f"the pod {twin} has the URL {entry.url} already")
        key = Path(entry.key_file).read_text(encoding="utf-8").strip() if entry.key_file else None
        pod = self._pods[entry.name] = Pod(entry, key=key)
        self._servers[entry.server] = entry.name
        self.expects_pods = True
        self._agreements.clear()
        for watcher in self._watchers:
            watcher(pod, True)
        return pod

    def remove(self, name: str) -> Pod | None:
        """Removes a pod; its requests in flight continue. None for an unknown pod."""
        pod = self._pods.pop(name, None)
        self._agreements.clear()
        if pod is not None:
            del self._servers[pod.entry.server]
            for watcher in self._watchers:
                watcher(pod, False)
        return pod

    def name_of(self, event_name: str) -> str | None:
        """The pod that publishes events under a name; None if it is not in the registry."""
        if event_name in self._pods:
            return event_name
        for pod in self:
            if pod.learned is not None and event_name in pod.learned.event_names:
                return pod.name
        return None

    def names(self) -> dict[str, str]:
        """`name_of` for every name under which a pod may publish events."""
        found: dict[str, str] = {}
        for pod in self:
            for event_name in pod.learned.event_names if pod.learned is not None else ():
                found.setdefault(event_name, pod.name)
        return found | {name: name for name in self._pods}

    def set_parity(self, pod: Pod, model: str, parity: Parity | None) -> None:
        """Notes whether a pod's tokens for a model equal ours; None if it does not serve the model any more."""
        if parity is None:
            pod.parity.pop(model, None)
        else:
            pod.parity[model] = parity
        self._agreements.clear()

    def agreement(self, model: str, *, chat: bool, features: frozenset[str] | None = None) -> Agreement:
        """Whether tokens agree over all pods that serve a model, for chats, or else for texts.

        `features` are those of a chat; without them, a difference of any chat counts.
        """
        found = self._agreements.get((model, chat, features))
        if found is None:
            parities = [pod.parity.get(model, UNASKED) for pod in self._serving(model)]
            found = agreement(parities, chat=chat, features=features)
            if len(self._agreements) < _MAX_AGREEMENTS:
                self._agreements[model, chat, features] = found
        return found

    def set_server_parity(self, model: str, parity: Parity) -> None:
        """Notes how a render server renders a model."""
        self._of_server[model] = parity

    def may_ask_server(self, model: str) -> bool:
        """Whether the render server may be asked for a model: unless it is known to render unlike one of its pods."""
        if (server := self._of_server.get(model)) is None:
            return True
        pods = (pod.parity.get(model, UNASKED) for pod in self._serving(model))
        return all(render_equally([server, parity]) is not Verdict.DIFFERS for parity in pods)

    def engines_of(self, model: str) -> list[Pod]:
        """The healthy pods that serve a model, the least busy first."""
        found = [pod for pod in self._serving(model) if pod.healthy is not False]
        return sorted(found, key=lambda pod: pod.in_flight)

    def _serving(self, model: str) -> list[Pod]:
        return [pod for pod in self if any(served.id == model for served in pod.models)]

    def serves(self, model: str) -> bool:
        """Whether a pod lists a model of that name, which is no LoRA."""
        return self.base_of(model) == model

    def default_model(self, configured: str) -> str:
        """The model of requests that name none: the configured one, or the one that pods list if it is not theirs.

        A model that pods list under several names has the first of them.
        """
        bases = self._bases()
        if configured in bases or len({model.root or name for name, model in bases.items()}) != 1:
            return configured
        return next(iter(bases))

    def meant_model(self, configured: str) -> str | None:
        """The model of a request to pods that names none: the configured one if pods list it, or their only one.

        None if any pod may take the request.
        """
        bases = self._bases()
        return configured if configured in bases else next(iter(bases)) if len(bases) == 1 else None

    def _bases(self) -> dict[str, ServedModel]:
        return {name: model for name, model in self.models().items() if model.parent is None}

    def base_of(self, name: str) -> str | None:
        """The base model of a LoRA that a pod lists, or the name itself if it is a model's; None if no pod lists it."""
        base: str | None = None
        for pod in self:
            for model in pod.models:
                if model.id == name and model.parent is None:
                    return name
                if model.id == name:
                    base = model.parent
        return base

    def root_of(self, model: str) -> str | None:
        """The name or path that an engine loaded a model from, as its /v1/models says; None if unknown."""
        served = self.model(model)
        return served.root if served is not None else None

    def length_of(self, model: str) -> int | None:
        """The maximum length of a model in tokens, as an engine's /v1/models says; None if unknown."""
        served = self.model(model)
        return served.max_model_len if served is not None else None

    def model(self, name: str) -> ServedModel | None:
        """A model as the first pod lists it."""
        for pod in self:
            for model in pod.models:
                if model.id == name:
                    return model
        return None

    def models(self) -> dict[str, ServedModel]:
        found: dict[str, ServedModel] = {}
        for pod in self:
            for model in pod.models:
                found.setdefault(model.id, model)
        return found
