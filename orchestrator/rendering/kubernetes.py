"""A launch as manifests for Kubernetes: those of deploy/kubernetes/, with the settings and files of the launch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from orchestrator.errors import UsageError
from orchestrator.launch import DEFAULTS, Launch
from orchestrator.mounted_files import MountedFile, mounted_file, mounted_files
from orchestrator.rendering.engines import are_near, near, other_servers, ports_of_engines
from orchestrator.rendering.portable import Place, Portable, portable
from orchestrator.runtimes.base import RuntimeKind
from orchestrator.runtimes.hardening import docker_restrictions
from service.contract.containers import HOST_NAME
from service.contract.discovery import KUBERNETES, namespace_and_selector

Manifest: TypeAlias = dict[str, Any]

# Files become Secrets, which every user of the pod may read: what their modes are here does not matter.
_PLACE = Place(RuntimeKind.DOCKER, rootless=True)
_PACKAGE = Path(__file__).resolve().parent.parent
_SETTINGS = "kvcache-settings"
_NAME = "kvcache"
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?")
_OF_THE_POD = ("STATE_DIR",)
_OF_A_CLUSTER = {"DRAIN_TIMEOUT": "60s"}
"""Replicas are stopped one after the other while others answer; the grace period of the deployment is longer."""
_EXAMPLE = "Examples: --discovery kubernetes:llm/app=vllm --namespace llm, or --zmq-endpoint tcp://vllm-0.vllm:5557"


def kubernetes(launch: Launch, namespace: str | None = None) -> str:
    """The text of all manifests; secrets and files are Secrets, which a comment names. Raises Problem."""
    _refuse_what_a_cluster_lacks(launch)
    name = _NAME if launch.name == DEFAULTS.name else launch.name
    found = portable(launch, _PLACE)
    if HOST_NAME in " ".join(found.workload.environment.values()):
        raise UsageError(
            "An address is on this machine's loopback, which a cluster does not reach.", f"Name the engines. {_EXAMPLE}"
        )
    files = _files(launch)
    sources = [source for source in launch.sources if source.kind == KUBERNETES]
    roles = sorted({namespace_and_selector(source.place)[0] for source in sources if not source.option("kubeconfig")})
    if roles and namespace is None:
        raise UsageError(
            "--discovery kubernetes: needs the namespace of the service, which gets a role.",
            f"Name it: --namespace {roles[0]}",
        )
    manifests = {one: _manifest(one) for one in ("serviceaccount", "service", "poddisruptionbudget", "networkpolicy")}
    deployment = _manifest("deployment")
    _fill_deployment(deployment, launch, found, files, has_role=bool(roles))
    _fill_service(manifests["service"], launch)
    _fill_policy(manifests["networkpolicy"], launch, has_role=bool(roles))
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": _SETTINGS, "labels": dict(deployment["metadata"]["labels"])},
    }
    roled = (one for role in roles for one in _roles(role, str(namespace)))
    documents = [_renamed(one, name) for one in (settings, *manifests.values(), *roled, deployment)]
    # Not renamed: its values are those of the launch.
    data = {key: value for key, value in found.workload.environment.items() if key not in _OF_THE_POD}
    documents[0]["data"] = _OF_A_CLUSTER | data
    if namespace:
        for document in documents:
            document["metadata"].setdefault("namespace", namespace)
    asked = "".join(f"# {line}\n" for line in _asked(name, found, files, namespace))
    text: str = yaml.safe_dump_all(documents, sort_keys=False, width=1000)
    return asked + text


def _renamed(node: Any, name: str) -> Any:
    """A manifest for another name than the usual one, which names of all its objects begin with."""
    if isinstance(node, dict):
        return {key: _renamed(value, name) for key, value in node.items()}
    if isinstance(node, list):
        return [_renamed(value, name) for value in node]
    if node == _NAME or (isinstance(node, str) and node.startswith(f"{_NAME}-")):
        return name + node.removeprefix(_NAME)
    return node


def _manifest(name: str) -> Manifest:
    for folder in (_PACKAGE / "context" / "kubernetes", _PACKAGE.parent / "deploy" / "kubernetes"):
        if (file := folder / f"{name}.yaml").is_file():
            loaded: Manifest = yaml.safe_load(file.read_text(encoding="utf-8"))
            return loaded
    raise UsageError("The manifests are not there.", "Install kvcache from its wheel, or run it from a checkout.")


def _refuse_what_a_cluster_lacks(launch: Launch) -> None:
    if not _LABEL.fullmatch(launch.name):
        raise UsageError(
            f"--name: {launch.name!r} is not a name for Kubernetes.", "Use small letters, digits and - inside."
        )
    for option, remedy in (
        (
            "models_dir",
            "Copy the models into a PersistentVolumeClaim, and name it as models.claimName of the Helm chart.",
        ),
        ("hf_cache", "Leave it out: each pod has a folder of its own."),
        ("state_dir", "Leave it out: each pod has a folder of its own."),
        ("networks", "Leave it out: pods reach each other by name."),
    ):
        if getattr(launch, option):
            flag = "--network" if option == "networks" else f"--{option.replace('_', '-')}"
            raise UsageError(f"{flag}: a cluster does not have this machine's.", remedy)
    if any(endpoint.binds for endpoint in launch.endpoints):
        raise UsageError(
            "--zmq-endpoint: an engine that connects to the service reaches one replica only.",
            f"Name the engines. {_EXAMPLE}",
        )


def _files(launch: Launch) -> tuple[MountedFile, ...]:
    """The files of this machine that the service reads, at their place in a container."""
    named = {
        str(file.path): mounted_file(file.named_by, file.path, f"file-{number}")
        for number, file in enumerate(launch.named_files)
    }
    return (*mounted_files(launch.tls_files), *named.values())


def _place(file: MountedFile) -> str:
    return file.mount.target.rpartition("/")[2]


def _fill_deployment(
    deployment: Manifest, launch: Launch, found: Portable, files: Iterable[MountedFile], *, has_role: bool
) -> None:
    pod = deployment["spec"]["template"]["spec"]
    pod["automountServiceAccountToken"] = has_role
    (container,) = pod["containers"]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    pod["terminationGracePeriodSeconds"] = max(pod["terminationGracePeriodSeconds"], pause + launch.stop_seconds)
    container["image"] = found.workload.image
    container["env"] += [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": f"{_NAME}-secrets", "key": name}}}
        for name in found.secrets
    ]
    container["ports"] = [{"name": name, "containerPort": port} for name, port in _ports(launch).items()]
    if sysctls := docker_restrictions(found.workload)["sysctls"]:
        pod["securityContext"]["sysctls"] = [{"name": name, "value": value} for name, value in sysctls.items()]
    if launch.tls:
        for probe in ("readinessProbe", "livenessProbe"):
            container[probe]["httpGet"]["scheme"] = "HTTPS"
    resources = container["resources"]
    if launch.memory is not None:
        resources["limits"] = {"memory": str(launch.memory)} if launch.memory else {}
        resources["requests"]["memory"] = str(min(launch.memory, 512 << 20)) if launch.memory else "512Mi"
    if launch.cpus is not None:
        resources.setdefault("limits", {})["cpu"] = f"{launch.cpus:g}"
        resources["requests"]["cpu"] = f"{min(launch.cpus, 0.5):g}"
    for file in files:
        place = _place(file)
        container["volumeMounts"].append({"name": place, "mountPath": file.mount.target, "readOnly": True})
        pod["volumes"].append({"name": place, "secret": {"secretName": f"{_NAME}-{place}", "defaultMode": 0o440}})


def _ports(launch: Launch) -> Mapping[str, int]:
    metrics = {} if launch.metrics_port is None else {"metrics": launch.metrics_port}
    return {"http": launch.port, **metrics}


def _fill_service(service: Manifest, launch: Launch) -> None:
    service["spec"]["ports"] = [
        {"name": name, "port": port, "targetPort": name} for name, port in _ports(launch).items()
    ]


def _fill_policy(policy: Manifest, launch: Launch, *, has_role: bool) -> None:
    """Engines are reached in this namespace if their names say that they are there, and anywhere otherwise."""
    spec = policy["spec"]
    if launch.metrics_port is not None:
        spec["ingress"].append({"from": [{"podSelector": {}}], "ports": [{"port": "metrics"}]})
    names, _, own, hub = spec["egress"]
    engines: Manifest = {"to": [{"podSelector": {}}]} if are_near(launch) else {}
    engines["ports"] = [{"port": port} for port in ports_of_engines(launch)]
    api = [{"ports": [{"port": 443}, {"port": 6443}]}] if has_role else []
    own["ports"] = [{"port": launch.port}]
    spec["egress"] = [names, engines, *_to_other_servers(launch), *api, own, hub]


def _to_other_servers(launch: Launch) -> Iterable[Manifest]:
    servers = other_servers(launch)
    for is_near in (True, False):
        if ports := sorted({port for host, port in servers if near(host) is is_near}):
            where: Manifest = {"to": [{"podSelector": {}}]} if is_near else {}
            yield {**where, "ports": [{"port": port} for port in ports]}


def _roles(namespace: str, own: str) -> Iterable[Manifest]:
    """The Role and RoleBinding that let the service, in the namespace `own`, find engines in another."""
    role, binding = _manifest("discovery/role"), _manifest("discovery/rolebinding")
    for one in (role, binding):
        one["metadata"]["namespace"] = namespace
    binding["subjects"][0]["namespace"] = own
    return role, binding


def _asked(name: str, found: Portable, files: Iterable[MountedFile], namespace: str | None) -> Iterable[str]:
    kubectl = f"kubectl{f' --namespace {namespace}' if namespace else ''}"
    yield f"{kubectl} apply --filename THIS_FILE; the cluster must have the image {found.workload.image}."
    if found.secrets:
        values = " ".join(f"--from-literal={one}=…" for one in found.secrets)
        yield f"It needs: {kubectl} create secret generic {name}-secrets {values}"
    for file in files:
        path = file.mount.source if file.path == file.mount.target else file.mount.source / Path(file.path).name
        yield f"It needs: {kubectl} create secret generic {name}-{_place(file)} --from-file={path}"
