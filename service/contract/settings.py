"""The service's settings, read from environment variables: a variable has its field's name in capitals."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from service.contract.api_keys import ApiKey, parse_api_keys, parse_rates
from service.contract.assignments import parse_assignments, parse_renderers, parse_revisions
from service.contract.discovery import SourceEntry, parse_discovery
from service.contract.endpoints import Endpoint, parse_optional_endpoints
from service.contract.model_options import check_model_options
from service.contract.pods import PodEntry, parse_pods
from service.contract.shared_state import ValkeyAddress, parse_prefix, parse_shared_state
from service.contract.tier_weights import TierWeights
from service.contract.units import parse_seconds, parse_size

AUTO = 0
"""WORKERS=auto: one per core."""
_SECRET = frozenset({"API_KEYS", "SHARED_STATE"})
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


class SettingsError(Exception):
    """A variable has an invalid value; the text has its name and the valid values."""


def _shortened(value: str) -> str:
    return repr(value if len(value) <= 100 else f"{value[:100]}…")


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value.strip()


def _any_text(value: str) -> str:
    return value


def _flag(value: str) -> bool:
    match value.strip().lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "" | "0" | "false" | "no" | "off":
            return False
    raise ValueError("must be true or false")


def _path(value: str) -> Path:
    try:
        return Path(_text(value)).expanduser()
    except RuntimeError:
        raise ValueError("starts with the home folder of an unknown user") from None


def _optional_path(value: str) -> Path | None:
    return _path(value) if value.strip() else None


def _optional_url(value: str) -> str | None:
    value = value.strip().rstrip("/").removesuffix("/v1")
    if not value:
        return None
    if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", value):
        raise ValueError("must be a URL such as http://10.0.0.7:8000")
    return value


FROM_SHARED_STATE = "shared"
"""BOOTSTRAP_FROM: the snapshot in SHARED_STATE."""


def _bootstrap_source(value: str) -> str | None:
    if value.strip() == FROM_SHARED_STATE:
        return FROM_SHARED_STATE
    try:
        return _optional_url(value)
    except ValueError as error:
        raise ValueError(f"{error}, or {FROM_SHARED_STATE}") from None


def _optional_collector(value: str) -> str | None:
    value = value.strip().rstrip("/")
    if value and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", value):
        raise ValueError("must be a URL such as http://10.0.0.3:4318")
    return value or None


def _count(low: int, high: int | None = None) -> Callable[[str], int]:
    def parse(value: str) -> int:
        digits = value.strip()
        bounds = f"from {low} to {high}" if high is not None else f"of {low} or more"
        # int() raises its own error above 4,300 digits.
        number = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 20 else -1
        if number < low or (high is not None and number > high):
            raise ValueError(f"must be a whole number {bounds}")
        return number

    return parse


def _workers(value: str) -> int:
    return AUTO if value.strip().lower() == "auto" else _count(1, 256)(value)


def _seconds_up_to(high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        seconds = 0.0 if value.strip() == "0" else parse_seconds(value)
        if seconds > high:
            raise ValueError(f"must be a time of at most {high:g} s, such as 50ms, or 0")
        return seconds

    return parse


def _optional_port(value: str) -> int | None:
    return _count(1, 65535)(value) if value.strip() else None


def _size(low: int) -> Callable[[str], int]:
    return lambda value: parse_size(value, low)


def _choice(*options: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.strip().lower() not in options:
            raise ValueError(f"must be one of {', '.join(options)}")
        return value.strip().lower()

    return parse


def _names(value: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, (name.strip() for name in value.split(",")))))


def _weights(value: str) -> TierWeights:
    weights = TierWeights()
    for part in filter(None, (piece.strip() for piece in value.split(","))):
        tier, _, number = (word.strip() for word in part.partition("="))
        weight = float(number) if _NUMBER.fullmatch(number) else math.inf
        if tier not in TierWeights._fields or weight > 1:
            raise ValueError(f"{part!r} must be gpu=, cpu= or storage= and a number from 0 to 1")
        weights = weights._replace(**{tier: weight})
    return weights


def _setting(default: Any, parse: Callable[[str], Any], meaning: str) -> Any:
    return field(default=default, metadata={"parse": parse, "meaning": meaning})


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one run of the service, parsed and checked."""

    container_env: bool = _setting(
        False, _flag, "set by `kvcache`: this process is the service, not the command on the host"
    )
    instance_id: str = _setting("", _any_text, "set by `kvcache`: value of the header Kvcache-Instance of GET /health")

    model_name: str = _setting(
        "ibm-granite/granite-3.3-2b-instruct",
        _text,
        "model of requests and topics that do not name one; if pods list another model alone, requests get that",
    )
    models: tuple[str, ...] = _setting(
        (),
        _names,
        "models that requests may name besides MODEL_NAME, those in MODELS_DIR and those of pods, as A,B; * for any",
    )
    models_dir: Path = _setting(Path("/models"), _path, "folder with models on disk, as <org>/<name>/tokenizer.json")
    model_aliases: tuple[tuple[str, str], ...] = _setting(
        (), parse_assignments, "tokenizers of names in requests, as NAME=ORG/MODEL or NAME=/FOLDER, separated by commas"
    )
    revision: tuple[tuple[str, str], ...] = _setting(
        (),
        parse_revisions,
        "branch, tag or commit of MODEL_NAME on the hub; or of several models, as MODEL=REVISION,…",
    )
    max_models: int = _setting(8, _count(1), "maximum loaded models; the least recently used is unloaded first")
    hub_timeout: float = _setting(10.0, parse_seconds, "timeout of one call to the model hub")
    hub_retry_after: float = _setting(30.0, parse_seconds, "delay before a failed load is tried again")
    trust_request_chat_template: bool = _setting(False, _flag, "accept chat templates in requests")
    token_cache_bytes: int = _setting(
        64 << 20, _size(0), "memory of the cache of prompts and their tokens; 0 turns it off"
    )
    token_cache_by_salt: bool = _setting(
        False, _flag, "keep cached tokens of each `cache_salt` apart, so that timing tells nothing of others' texts"
    )
    render_timeout: float = _setting(5.0, parse_seconds, "timeout for rendering one chat template")

    renderers: tuple[tuple[str, str], ...] = _setting(
        (), parse_renderers, "renderer of a model, as MODEL=NAME with template, harmony, mistral or engine"
    )
    model_options: str = _setting(
        "",
        check_model_options,
        "what engines were started with: JSON by model with the names of vLLM's flags, or a path that ends in .json",
    )
    render_url: str | None = _setting(
        None, _optional_url, "render server (`vllm launch render`) that is asked where only an engine knows the tokens"
    )
    render_url_timeout: float = _setting(1.0, parse_seconds, "timeout for a prompt that an engine renders")

    zmq_endpoint: tuple[Endpoint, ...] = _setting(
        (Endpoint("tcp://localhost:5557"),),
        parse_optional_endpoints,
        "sources of events: ADDRESS[,pod=…][,model=…][,replay=…][,snapshot=…][,hosts=…][,eagle=1][,curve=…][,peers=…]"
        "[,pods=…][,url=…], several separated by commas; none by default with PODS, PODS_FILE or DISCOVERY: pods name "
        "theirs",
    )
    zmq_curve_key: Path | None = _setting(
        None, _optional_path, "file with the service's CURVE key pair, for endpoints with curve="
    )
    zmq_topic: str = _setting("kv@", _any_text, "prefix of the topics to subscribe to; empty for all")
    pool_concurrency: int = _setting(4, _count(1, 256), "endpoints drained concurrently per event-loop turn")
    pool_queue_batches: int = _setting(100_000, _count(1), "maximum queued batches per connection and per replay")
    pod_ttl: float = _setting(300.0, parse_seconds, "how long a pod stays in the scores after its connection is lost")
    ready_needs_events: bool = _setting(
        False, _flag, "whether `GET /ready` waits until every endpoint was heard (`GET /endpoints` says why not)"
    )

    pods: tuple[PodEntry, ...] = _setting(
        (),
        parse_pods,
        "engines that requests are forwarded to: URL[,name=…][,events=…][,replay=…][,model=…][,key_file=…], several "
        "separated by commas",
    )
    pods_file: Path | None = _setting(
        None,
        _optional_path,
        "YAML or JSON file with a list of further pods, as in PODS or as mappings; changes are followed",
    )
    discovery: tuple[SourceEntry, ...] = _setting(
        (),
        parse_discovery,
        "sources that name further pods, which come and go with them: file:PATH, a file as in PODS_FILE; "
        "dns:NAME:PORT, the addresses of a name; dns:_SERVICE._PROTOCOL.NAME, SRV records; "
        "kubernetes:NAMESPACE/SELECTOR, pods by label; several separated by commas",
    )
    health_interval: float = _setting(5.0, parse_seconds, "time between two health checks of a pod")
    parity_interval: float = _setting(
        600.0, parse_seconds, "time between two comparisons of our tokens with those of a pod's engine"
    )
    first_byte_timeout: float = _setting(600.0, parse_seconds, "timeout for the first byte of an engine's response")
    silence_timeout: float = _setting(120.0, parse_seconds, "timeout for silence within an engine's response")
    stream_interval: float = _setting(
        0.0,
        _seconds_up_to(1.0),
        "how long chunks of a stream are collected before they are passed on together, for fewer system calls; 0 "
        "passes each on at once",
    )
    ask_usage: bool = _setting(
        False,
        _flag,
        "ask engines for the usage of streams whose clients do not (`include_usage`), and keep it from these clients",
    )
    affinity: tuple[str, ...] = _setting(
        ("session_id", "prompt_cache_key", "user", "header:X-Session-Id"),
        _names,
        "fields of a body, and headers, that name a session, so that its requests go to one pod if others are not "
        "better; the first one in a request counts",
    )
    send_token_ids: bool = _setting(
        False,
        _flag,
        "send engines the tokens of a prompt where they are known to compute the same ones: /v1/completions, and chats "
        "of SGLang",
    )
    max_in_flight_per_pod: int = _setting(0, _count(0), "maximum requests in flight per pod; 0 for no limit")
    queue_length: int = _setting(
        0, _count(0), "maximum requests that wait while all pods have MAX_IN_FLIGHT_PER_POD; 0 refuses them at once"
    )
    queue_seconds: float = _setting(30.0, parse_seconds, "how long a request waits for a pod at most")

    ready_replay_timeout: float = _setting(
        30.0,
        parse_seconds,
        "how long after its start /ready waits for BOOTSTRAP_FROM, for engines of restored ranks, for the first answer "
        "of each pod, and for replays",
    )

    state_dir: Path | None = _setting(
        None, _optional_path, "folder for snapshots of the index, from which a restarted service continues"
    )
    snapshot_interval: float = _setting(
        30.0, parse_seconds, "time between two snapshots, if the index changed; one is also written on a stop"
    )
    snapshot_unverified: str = _setting(
        "keep",
        _choice("keep", "drop"),
        "what happens to blocks of a snapshot if nothing tells whether their engine restarted meanwhile: keep (the "
        "rank is inexact) or drop",
    )
    bootstrap_from: str | None = _setting(
        None,
        _bootstrap_source,
        "another replica of the same fleet, whose index a starting one takes over; or `shared`: the snapshot that one "
        "of the replicas with this setting writes to SHARED_STATE each SNAPSHOT_INTERVAL",
    )
    bootstrap_key_file: Path | None = _setting(
        None, _optional_path, "file with the API key (admin) of BOOTSTRAP_FROM, if it needs one"
    )

    block_size: int = _setting(256, _count(1), "number of tokens that count as a score of 1")
    tier_weights: TierWeights = _setting(TierWeights(), _weights, "weight of a token by the tier of its block")
    index_max_blocks: int = _setting(
        20_000_000, _count(1), "maximum blocks in the index, over all pods; the oldest are evicted first"
    )

    http_host: str = _setting("0.0.0.0", _text, "address to listen on")  # noqa: S104 - the container's own network
    http_port: int = _setting(8080, _count(0, 65535), "port to listen on; 0 for any free port")
    api_keys: tuple[ApiKey, ...] = _setting(
        (), parse_api_keys, "API keys, as NAME:PERMISSIONS:KEY with read, route, admin; several separated by commas"
    )
    api_key_rates: tuple[tuple[str, float], ...] = _setting(
        (), parse_rates, "requests per second of API keys, as NAME=NUMBER,… with * for the others"
    )
    api_keys_file: Path | None = _setting(
        None, _optional_path, "file of API keys, one a line as in API_KEYS; read again when it changes"
    )
    tls_cert: Path | None = _setting(
        None, _optional_path, "certificate with its chain, in PEM: HTTPS instead of HTTP; read again when it changes"
    )
    tls_key: Path | None = _setting(None, _optional_path, "key of TLS_CERT, if that file does not hold it")
    tls_client_ca: Path | None = _setting(
        None, _optional_path, "authorities of client certificates: only /health and /ready answer without one"
    )
    metrics_port: int | None = _setting(
        None, _optional_port, "port that answers /metrics, /health and /ready without key and TLS, besides HTTP_PORT"
    )
    http_socket: Path | None = _setting(
        None, _optional_path, "path of a Unix socket that answers as HTTP_PORT does, for routers on the same machine"
    )
    workers: int = _setting(
        1, _workers, "processes that share HTTP_PORT, each with an index and limits of its own; auto for one per core"
    )
    worker_timeout: float = _setting(
        30.0, parse_seconds, "time without a sign of life after which a worker is killed and started again"
    )
    max_body_bytes: int = _setting(16 << 20, _size(1), "maximum size of a request body")
    max_prompt_characters: int = _setting(4_000_000, _count(1), "maximum characters of a prompt, plain or rendered")
    max_prompt_tokens: int = _setting(1_000_000, _count(1), "maximum token ids of a prompt")
    max_prompts: int = _setting(256, _count(1), "maximum prompts per request")
    max_messages: int = _setting(
        10_000,
        _count(1),
        "maximum messages per chat; also of content parts in all messages, of tools, and of template variables",
    )
    max_requests_in_flight: int = _setting(256, _count(1), "maximum requests in flight; above it the response is 429")
    max_requests_per_peer: int = _setting(
        192, _count(1), "maximum requests in flight from one peer address, and its share of MAX_BYTES_IN_FLIGHT"
    )
    max_bytes_in_flight: int = _setting(
        64 << 20, _size(1), "maximum bytes of bodies and responses in flight; above it the response is 429"
    )
    min_body_rate: int = _setting(1 << 10, _size(1), "minimum bytes per second of a body, over a sixth of BODY_TIMEOUT")
    header_timeout: float = _setting(10.0, parse_seconds, "timeout for receiving the headers of a request")
    body_timeout: float = _setting(
        30.0, parse_seconds, "timeout for receiving a body, and for sending a response to a client that does not read"
    )
    keepalive_timeout: float = _setting(75.0, parse_seconds, "how long an idle connection stays open")

    drain_timeout: float = _setting(
        0.5,
        parse_seconds,
        "how long a stop waits for requests in flight. New connections are answered until none came for a quarter of "
        "a second, for a quarter of this time at most, and then refused; with WORKERS, at once. Replicas behind a "
        "balancer want more, and whatever stops them must not kill them earlier",
    )

    shared_state: ValkeyAddress | None = _setting(
        None,
        parse_shared_state,
        "Valkey or Redis where replicas meet: valkey://HOST:PORT, valkeys:// for TLS, valkey+sentinel://HOST,…/NAME, "
        "valkey+cluster://HOST,…, with USER:PASSWORD@, /DATABASE and ?ca=FILE&password_file=FILE; none for one replica",
    )
    shared_state_prefix: str = _setting(
        "kvcache", parse_prefix, "prefix of the keys there; fleets with different prefixes do not meet"
    )

    log_format: str = _setting("human", _choice("human", "json"), "format of log lines: human (text) or json")
    log_level: str = _setting("info", _choice("debug", "info", "warning", "error"), "minimum level of log lines")
    access_log: str = _setting(
        "off",
        _choice("off", "json", "human"),
        "one line on standard output for each request to a pod: its id, the pod, predicted and actual tokens, times "
        "and status, as json or human (aligned text); never prompts",
    )
    otel_exporter_otlp_endpoint: str | None = _setting(
        None,
        _optional_collector,
        "URL of an OpenTelemetry collector, such as http://10.0.0.3:4318: traces of routed requests are sent to it by "
        "OTLP over HTTP; other OTEL_* variables count as well",
    )

    @property
    def is_open(self) -> bool:
        """Whether everyone who reaches the port may use all of the API."""
        return not self.api_keys and self.api_keys_file is None and self.tls_client_ca is None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Reads the variables that are set; raises SettingsError for an invalid one."""
        values: dict[str, Any] = {}
        for setting in fields(cls):
            name = setting.name.upper()
            if name in environment:
                try:
                    values[setting.name] = setting.metadata["parse"](environment[name])
                except ValueError as error:
                    shown = "…" if name in _SECRET else _shortened(environment[name])
                    raise SettingsError(f"{name}={shown}: {error}") from None
        if "zmq_endpoint" not in values and any(values.get(name) for name in ("pods", "pods_file", "discovery")):
            values["zmq_endpoint"] = ()
        if values.get("bootstrap_from") == FROM_SHARED_STATE and values.get("shared_state") is None:
            raise SettingsError(f"BOOTSTRAP_FROM={FROM_SHARED_STATE}: needs SHARED_STATE")
        return cls(**values)


def describe() -> Iterator[tuple[str, str, str]]:
    """Yields (variable, default, meaning) of every setting, in order."""
    for setting in fields(Settings):
        yield setting.name.upper(), _shown(setting), setting.metadata["meaning"]


def _shown(setting: Field[Any]) -> str:
    default = setting.default
    assert default is not MISSING  # noqa: S101 - every setting has a default
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, TierWeights):
        return ",".join(f"{tier}={weight}" for tier, weight in default._asdict().items())
    if isinstance(default, tuple):
        return ",".join(str(getattr(part, "address", part)) for part in default)
    return f"{default:g}" if isinstance(default, float) else str(default)
