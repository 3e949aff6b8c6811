"""The application: its routes and its resources; each resource is started and stopped in one place."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web

from service.access_log import AccessLog
from service.api.admission import Admission
from service.api.at_once import AT_ONCE, AnswersAtOnce
from service.api.client_certificates import with_client_certificate
from service.api.key_rates import KeyRates
from service.api.keys import KeyRing
from service.api.limits import RequestLimits
from service.api.middleware import with_limits_and_errors
from service.api.pod_states import PodStates
from service.api.recorded import recorded
from service.api.rendering import Rendering
from service.api.requests import chat_body_decoder
from service.api.resolver import PromptResolver
from service.api.resources import (
    ACCURACY,
    ADMISSION,
    ASKS_USAGE,
    BOOTSTRAP,
    CHAT_DECODER,
    CHOICES,
    DISCOVERY,
    DOCUMENT,
    FLEET,
    GATEWAY,
    INDEX,
    INSTANCE_ID,
    LIMITS,
    LISTENERS,
    MODELS,
    POD_STATES,
    POOL,
    PUBLISHERS,
    READINESS,
    REGISTRY,
    RESOLVER,
    ROUTER,
    SCORER,
    SEND_TOKEN_IDS,
    SESSION_KEYS,
    SHARED,
    SHARED_PODS,
    SIBLINGS,
    SNAPSHOTS,
    TRAFFIC,
    TURNS,
)
from service.api.routes import ROUTES
from service.api.traffic import Traffic
from service.contract.endpoints import Endpoint
from service.contract.pods import with_endpoints_of
from service.contract.settings import FROM_SHARED_STATE, Settings, SettingsError
from service.events.curve import KeyPair
from service.events.pool import EventPool
from service.events.relay import Relayed
from service.fleet.discovery.discovery import Discovery
from service.fleet.discovery.sources import sources
from service.fleet.health_checks import Monitor
from service.fleet.load import LoadReader
from service.fleet.registry import Pod, Registry
from service.gateway.gateway import Gateway
from service.gateway.request_record import RequestRecords
from service.gateway.retries import Limits
from service.index.base import Index, Rank
from service.index.memory import MemoryIndex
from service.index.scoring import Scorer
from service.log import STDOUT
from service.native.backend import COMPILED
from service.parity.watcher import ParityWatcher
from service.prompts.models.catalog import Models
from service.prompts.options import CacheBudget, PromptOptions
from service.prompts.renderers.engine import EngineRenderer
from service.prompts.renderers.engine_api import EngineApi
from service.readiness import Readiness
from service.replicas.batches import SharedBatches
from service.replicas.bootstrap import Bootstrap
from service.replicas.choices import WAIT_FOR_WORKER_SECONDS, WAIT_SECONDS, SharedChoices
from service.replicas.pods import SharedPods
from service.replicas.publishers import Publishers
from service.replicas.shared.alone import Alone
from service.replicas.shared.base import Carrier
from service.replicas.shared.state import SharedState
from service.replicas.shared.through_hub import ThroughHub
from service.replicas.snapshot_file import SnapshotFile
from service.replicas.snapshot_place import SnapshotPlace
from service.replicas.snapshots import Snapshots
from service.routing.accuracy import Accuracy
from service.routing.affinity import SessionKeys
from service.routing.choice import Router
from service.routing.request_listeners import RequestListeners
from service.tracing.base import NOTHING, Tracer
from service.workers.place import Place
from service.workers.siblings import Siblings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def create_app(settings: Settings, place: Place | None = None) -> web.Application:
    """Connects the parts of the service, which may be one of several workers; its resources start with it."""
    app = web.Application(client_max_size=settings.max_body_bytes)
    limits = RequestLimits(
        max_body_bytes=settings.max_body_bytes,
        max_prompt_characters=settings.max_prompt_characters,
        max_prompt_tokens=settings.max_prompt_tokens,
        max_prompts=settings.max_prompts,
        max_messages=settings.max_messages,
        body_timeout=settings.body_timeout,
        min_body_rate=settings.min_body_rate,
    )
    caches = CacheBudget.of(settings.token_cache_bytes, compiled=COMPILED, by_salt=settings.token_cache_by_salt)
    options = PromptOptions.of(settings, caches)
    index, traffic = MemoryIndex(settings.index_max_blocks, caches.block_keys), Traffic()
    admission = Admission(settings.max_requests_in_flight, settings.max_requests_per_peer, settings.max_bytes_in_flight)
    if place is not None:
        app[SIBLINGS] = Siblings(place)
    app[LIMITS], app[ADMISSION] = limits, admission
    app[TURNS] = asyncio.Lock()
    app[TRAFFIC] = traffic
    app[INSTANCE_ID] = settings.instance_id
    app[SEND_TOKEN_IDS] = settings.send_token_ids
    app[INDEX] = index
    app[SCORER] = Scorer(index, settings.tier_weights, settings.block_size)
    app[CHAT_DECODER] = chat_body_decoder(caches.chat_bodies)
    described: Callable[[], bytes] = cache(_document)
    app[DOCUMENT] = described
    app[ASKS_USAGE] = settings.ask_usage
    app[SESSION_KEYS] = SessionKeys(settings.affinity)
    tracer = _tracer(settings.otel_exporter_otlp_endpoint)
    own_keys = _curve_keys(settings)
    relayed = Relayed(place.relay) if place is not None else None
    fleet = app[FLEET] = Registry()
    discovery = app[DISCOVERY] = Discovery(fleet, sources(settings.pods_file, settings.discovery))
    accuracy = app[ACCURACY] = Accuracy(fleet, index)
    router = app[ROUTER] = Router(fleet, settings.tier_weights)
    app[LISTENERS], app[POD_STATES] = RequestListeners(), PodStates()
    shared = _share(app, settings, place)
    places = _snapshot_places(settings, shared.name, place)
    bootstrap = app[BOOTSTRAP] = _bootstrap(settings, index, *places, place)

    async def resources(app: web.Application) -> AsyncIterator[None]:
        engine = EngineRenderer(settings.render_url_timeout)
        # Nested, so that started resources are stopped if a later one fails to start.
        async with (
            closed_at_the_end(tracer),
            event_pool(settings, index, own_keys, relayed, applied=router.heard) as pool,
            loaded_models(options, index, fleet) as models,
            readiness(
                settings, models, pool, fleet, loading=lambda: [*bootstrap.reasons(), *discovery.reasons()]
            ) as ready,
            monitored(
                fleet,
                pool,
                models,
                engine,
                settings,
                router=router,
                accuracy=accuracy,
                listeners=app[LISTENERS],
            ) as gateway,
            discovering(discovery),
            kept(
                pool, bootstrap, [place for place in places if place is not None], settings.snapshot_interval
            ) as snapshots,
            rendering(fleet, models, engine, options, settings) as rendered,
        ):
            app[POOL] = pool
            app[SHARED_PODS], app[PUBLISHERS] = (
                SharedPods(shared, fleet, pool.forget),
                Publishers(shared, pool.follow, pool.unfollow, pool.forget),
            )
            app[MODELS] = models
            app[RESOLVER] = PromptResolver(
                models,
                index,
                limits,
                settings.model_name,
                rendering=rendered,
                base_of=fleet.base_of,
                default_of=fleet.default_model,
            )
            app[READINESS] = ready
            app[GATEWAY] = gateway
            app[SNAPSHOTS] = snapshots

            def registry() -> CollectorRegistry:
                from service import metrics  # noqa: PLC0415 - prometheus_client takes a while to load

                return metrics.registry(
                    metrics.ServiceCollector(index, pool, traffic, admission, STDOUT),
                    metrics.SnapshotCollector(snapshots.statistics),
                    metrics.GatewayCollector(fleet, gateway.statistics, accuracy, discovery),
                    metrics.SharedStateCollector(shared),
                )

            measured: Callable[[], CollectorRegistry] = cache(registry)
            app[REGISTRY] = measured
            async with started(shared, pool if settings.shared_state is not None and place is None else None):
                yield

    app.cleanup_ctx.append(resources)
    _add_routes(app, settings, _request_records(settings, place, tracer))
    return app


def _add_routes(app: web.Application, settings: Settings, records: RequestRecords) -> None:
    """Adds the endpoints, each with its limits, keys, errors and counters."""
    traffic, fleet = app[TRAFFIC], app[FLEET]
    key_ring = KeyRing(settings.api_keys, settings.api_keys_file, rates=KeyRates(dict(settings.api_key_rates)))
    at_once: dict[str, AnswersAtOnce] = {}
    for route in ROUTES:
        needs_certificate = settings.tls_client_ca is not None and route.needs_certificate
        handler = with_limits_and_errors(
            route.handler,
            route.path,
            traffic,
            app[ADMISSION],
            settings.hub_retry_after,
            is_forwarded=(lambda: fleet.receives_requests) if route.is_forwarded else None,
            authorize=_authorizer(key_ring, route.permissions),
        )
        if needs_certificate:
            handler = with_client_certificate(handler, route.path, traffic)
        if route.is_forwarded:
            handler = recorded(handler, route.path, records, lambda: fleet.receives_requests)
        app.add_routes([web.route(route.method, route.path, handler)])
        if route.at_once is not None:
            at_once[route.path] = AnswersAtOnce(
                app,
                route.method,
                route.path,
                route.at_once,
                keys=key_ring,
                permissions=route.permissions,
                needs_certificate=needs_certificate,
            )
    app[AT_ONCE] = at_once


def _document() -> bytes:
    from service.api.openapi import document  # noqa: PLC0415 - few ask for it

    return document([route for route in ROUTES if route.is_described])


def _tracer(endpoint: str | None) -> Tracer:
    """The tracer of routed requests, which records nothing without a collector. Raises SettingsError."""
    if endpoint is None:
        return NOTHING
    if (protocol := os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip()) not in {"", "http/protobuf"}:
        raise SettingsError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: must be http/protobuf, the port is often 4318")
    try:
        from service.api.openapi import own_version  # noqa: PLC0415
        from service.tracing.otel import OtelTracer  # noqa: PLC0415 - an optional package, which takes a while to load
    except ImportError as error:
        raise SettingsError(f"OTEL_EXPORTER_OTLP_ENDPOINT needs pip install 'kvcache[otel]': {error}") from error
    return OtelTracer(endpoint, own_version())


@asynccontextmanager
async def closed_at_the_end(tracer: Tracer) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await tracer.close()


def _request_records(settings: Settings, place: Place | None, tracer: Tracer) -> RequestRecords:
    """Records the requests for the pods, for ACCESS_LOG and traces."""
    if settings.access_log == "off":
        return RequestRecords(tracer=tracer)
    worker = place.number if place is not None else None
    return RequestRecords(log=AccessLog(is_json=settings.access_log == "json", worker=worker), tracer=tracer)


def _authorizer(keys: KeyRing, permissions: Sequence[str]) -> Callable[[Mapping[str, str]], str] | None:
    if keys.is_open or not permissions:
        return None
    return partial(keys.check, permissions=permissions)


def _share(app: web.Application, settings: Settings, place: Place | None) -> SharedState:
    """Lets this replica decide with the others, if there may be others."""
    shared = app[SHARED] = SharedState(_carrier(settings, place))
    if shared.status() is not None:
        wait_seconds = WAIT_SECONDS if settings.shared_state is not None else WAIT_FOR_WORKER_SECONDS
        app[CHOICES] = SharedChoices(shared, app[ROUTER], wait_seconds=wait_seconds)
    return shared


def _carrier(settings: Settings, place: Place | None) -> Carrier:
    """Carries what this replica tells the others."""
    if settings.shared_state is not None:
        from service.replicas.shared.valkey import ValkeyCarrier  # noqa: PLC0415 - its client takes a while to load

        return ValkeyCarrier(settings.shared_state, settings.shared_state_prefix)
    return ThroughHub(place.hub) if place is not None else Alone()


def _snapshot_places(
    settings: Settings, replica: str, worker: Place | None
) -> tuple[SnapshotPlace | None, SnapshotPlace | None]:
    """The place of this replica's own snapshot, and the place of one for all replicas, if it takes part in that."""
    folder = settings.state_dir
    file = SnapshotFile(folder, is_shared=worker is not None) if folder is not None else None
    if settings.bootstrap_from != FROM_SHARED_STATE or settings.shared_state is None:
        return file, None
    from service.replicas.snapshot_store import SnapshotStore  # noqa: PLC0415 - its client takes a while to load

    interval = settings.snapshot_interval
    return file, SnapshotStore(settings.shared_state, settings.shared_state_prefix, replica, interval)


def _bootstrap(
    settings: Settings, index: Index, file: SnapshotPlace | None, store: SnapshotPlace | None, worker: Place | None
) -> Bootstrap:
    return Bootstrap(
        index,
        file,
        store=store,
        sibling=settings.bootstrap_from if store is None else None,
        key_file=settings.bootstrap_key_file,
        workers=[worker.socket_of(number) for number in worker.others] if worker is not None else (),
        seconds=settings.ready_replay_timeout,
    )


@asynccontextmanager
async def started(shared: SharedState, pool: EventPool | None) -> AsyncIterator[None]:
    """Joins the other replicas, with what engines send to one of them if `pool` is given, and takes leave of them."""
    sharing = asyncio.create_task(SharedBatches(shared, pool).run(), name="batches") if pool is not None else None
    try:
        await shared.start()
        yield
    finally:
        if sharing is not None:
            sharing.cancel()
            await asyncio.gather(sharing, return_exceptions=True)
        await shared.close()


def _curve_keys(settings: Settings) -> KeyPair | None:
    """Raises SettingsError for a file without keys."""
    if settings.zmq_curve_key is None:
        return None
    try:
        return KeyPair.read(settings.zmq_curve_key)
    except (OSError, ValueError) as error:
        raise SettingsError(f"ZMQ_CURVE_KEY={settings.zmq_curve_key}: {error}") from error


@asynccontextmanager
async def event_pool(
    settings: Settings,
    index: Index,
    own_keys: KeyPair | None = None,
    relayed: Relayed | None = None,
    *,
    applied: Callable[[Rank], None] = lambda rank: None,
) -> AsyncIterator[EventPool]:
    """Receives events, which wait for `EventPool.begin`, and applies them to the index."""
    pool = EventPool(
        settings.zmq_endpoint,
        index,
        topic=settings.zmq_topic,
        default_model=settings.model_name,
        concurrency=settings.pool_concurrency,
        queue_batches=settings.pool_queue_batches,
        pod_ttl=settings.pod_ttl,
        own_keys=own_keys,
        relayed=relayed,
        applied=applied,
        waits=True,
        keeps_unverified=settings.snapshot_unverified == "keep",
    )
    try:
        await pool.start()
        yield pool
    finally:
        await pool.close()


@asynccontextmanager
async def kept(
    pool: EventPool, bootstrap: Bootstrap, places: Sequence[SnapshotPlace], interval: float
) -> AsyncIterator[Snapshots]:
    """Fills the index, then writes it each interval, and once more at the end."""
    snapshots = Snapshots(pool, places, interval)

    async def run() -> None:
        await bootstrap.run(pool)
        await snapshots.run()

    running = asyncio.create_task(run(), name="snapshots")
    try:
        yield snapshots
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        if bootstrap.done:  # otherwise it would replace a good snapshot by a part of it
            await snapshots.write()
        await snapshots.close()


@asynccontextmanager
async def monitored(
    fleet: Registry,
    pool: EventPool,
    models: Models,
    engine: EngineRenderer,
    settings: Settings,
    *,
    router: Router,
    accuracy: Accuracy,
    listeners: RequestListeners,
) -> AsyncIterator[Gateway]:
    """Adds the pods of PODS to the fleet, watches all pods, subscribes to their events, forwards requests."""
    limits = Limits(
        first_byte=settings.first_byte_timeout,
        silence=settings.silence_timeout,
        stream_interval=settings.stream_interval,
        max_in_flight_per_pod=settings.max_in_flight_per_pod or None,
        queue_length=settings.queue_length,
        queue_seconds=settings.queue_seconds,
    )
    router.is_exact = pool.is_exact
    followed: dict[str, set[Endpoint]] = {}

    def follow(pod: Pod) -> None:
        known, sources = followed.setdefault(pod.name, set()), set(pod.sources)
        for endpoint in known - sources:
            pool.unfollow(endpoint)
        for endpoint in sources - known:
            pool.follow(endpoint)
        followed[pod.name] = sources

    def changed(pod: Pod, is_there: bool) -> None:
        if is_there:
            follow(pod)
        else:
            for endpoint in followed.pop(pod.name, set()):
                pool.unfollow(endpoint)

    gateway = Gateway(fleet, router, limits, accuracy, listeners)
    parity = ParityWatcher(fleet, models, settings.parity_interval, settings.render_url)

    def joined(pod: Pod) -> None:
        engine.forget()
        parity.joined(pod)

    monitor = Monitor(fleet, follow, settings.health_interval, joined)
    load = LoadReader(fleet, settings.health_interval)
    fleet.watch(changed)
    for entry in with_endpoints_of(settings.pods, settings.zmq_endpoint):
        fleet.add(entry)
    parity.start()
    monitor.start()
    load.start()
    try:
        yield gateway
    finally:
        await monitor.close()
        await load.close()
        await parity.close()
        gateway.close()


@asynccontextmanager
async def discovering(discovery: Discovery) -> AsyncIterator[None]:
    """Follows the sources of pods."""
    try:
        discovery.start()
        yield
    finally:
        await discovery.close()


@asynccontextmanager
async def rendering(
    fleet: Registry, models: Models, engine: EngineRenderer, options: PromptOptions, settings: Settings
) -> AsyncIterator[Rendering]:
    """Renders prompts here, or by the pods' engines and RENDER_URL."""
    timeout = aiohttp.ClientTimeout(total=settings.render_url_timeout)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        server = EngineApi(session, settings.render_url) if settings.render_url is not None else None

        def engines_of(model: str) -> list[EngineApi]:
            """A render server comes first: it has nothing else to do."""
            pods = (EngineApi(session, pod.entry.url, pod.key) for pod in fleet.engines_of(model))
            return [*([server] if server is not None and fleet.may_ask_server(model) else []), *pods]

        yield Rendering(models, engine, engines_of, fleet.agreement, options.renderers)


@asynccontextmanager
async def loaded_models(options: PromptOptions, index: Index, fleet: Registry) -> AsyncIterator[Models]:
    """Loads models on demand."""
    models = Models(
        options,
        lambda name: index.serves(name) or fleet.serves(name),
        root_of=fleet.root_of,
        length_of=fleet.length_of,
    )
    try:
        yield models
    finally:
        await models.close()


@asynccontextmanager
async def readiness(
    settings: Settings, models: Models, pool: EventPool, fleet: Registry, *, loading: Callable[[], list[str]]
) -> AsyncIterator[Readiness]:
    """Loads the default model in the background."""
    needs_events = settings.ready_needs_events
    ready = Readiness(
        settings.model_name,
        settings.hub_retry_after,
        models,
        pool,
        fleet,
        needs_events=needs_events,
        replay_timeout=settings.ready_replay_timeout,
        loading=loading,
    )
    loads_model = asyncio.create_task(ready.load_default_model())
    try:
        yield ready
    finally:
        loads_model.cancel()
        with suppress(asyncio.CancelledError):
            await loads_model
