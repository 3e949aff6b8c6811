from __future__ import annotations

import socket
from pathlib import Path

import pytest

from orchestrator.commands.dry_run import command_line
from orchestrator.deployment import deployment_of
from orchestrator.errors import UsageError
from orchestrator.launch import Launch
from orchestrator.publishing import all_ports, taken_ports
from orchestrator.runtimes.base import INSTANCE_LABEL, NAME_LABEL, Health, RuntimeKind, Service
from orchestrator.runtimes.process import Processes
from orchestrator.store import prepare_store
from orchestrator.workload import prepare
from service.contract.secret_environment import VARIABLE, load
from service.contract.shared_state import parse_shared_state


class Contained(Processes):
    """A runtime that runs the service in containers, as far as their descriptions are concerned."""

    kind = RuntimeKind.PODMAN


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_a_single_replica_is_the_launch_itself() -> None:
    launch = Launch(name="kv", port=8080)
    deployment = deployment_of(launch)
    assert deployment.replicas == (launch,)
    assert deployment.names == ("kv",)
    assert prepare(launch, Contained()).labels[NAME_LABEL] == "kv"


@pytest.mark.parametrize(("drain", "seconds"), [({}, 10), ({"DRAIN_TIMEOUT": "60s"}, 70)])
def test_a_stop_waits_ten_seconds_longer_than_the_service_answers(drain: dict[str, str], seconds: float) -> None:
    labels = prepare(Launch(environment=drain), Contained()).labels
    found = Service(
        RuntimeKind.PODMAN, "kv", ours=True, image="", state="", running=True, health=Health.HEALTHY, labels=labels
    )
    assert found.stop_seconds == seconds


def test_replicas_have_names_ports_metrics_and_volumes_of_their_own_and_one_store() -> None:
    environment = {"METRICS_PORT": "9090"}
    deployment = deployment_of(Launch(name="kv", port=8080, replicas=3, environment=environment, networks=("llm",)))

    assert deployment.names == ("kv-valkey", "kv-1", "kv-2", "kv-3")
    assert [replica.port for replica in deployment.replicas] == [8080, 8081, 8082]
    assert [replica.metrics_port for replica in deployment.replicas] == [9090, 9091, 9092]
    workloads = [prepare(replica, Contained(), dry=True) for replica in deployment.replicas]
    assert [volume.name for one in workloads for volume in one.volumes if volume.target == "/state"] == [
        *("kv-1-state", "kv-2-state", "kv-3-state")
    ]
    assert {one.labels[NAME_LABEL] for one in workloads} == {"kv"}
    assert len({one.labels[INSTANCE_LABEL] for one in workloads}) == 3
    assert {one.networks for one in workloads} == {("kv-replicas", "llm")}


def test_replicas_with_a_state_dir_have_a_folder_of_it_each(tmp_path: Path) -> None:
    deployment = deployment_of(Launch(replicas=2, state_dir=tmp_path))
    assert [replica.state_dir for replica in deployment.replicas] == [tmp_path / "1", tmp_path / "2"]


def test_the_store_has_a_password_that_replicas_know_and_no_command_line_shows() -> None:
    launch = Launch(name="kv", replicas=2)
    deployment = deployment_of(launch)
    assert deployment.store is not None
    address = parse_shared_state(deployment.replicas[1].environment["SHARED_STATE"])
    assert address is not None
    assert (address.hosts, address.password) == ((("kv-valkey", 6379),), deployment.store.password)

    workloads = [prepare(replica, Contained()) for replica in deployment.replicas]
    store = prepare_store(launch, deployment.store, Contained())
    shown = " ".join(line for one in (*workloads, store) for line in command_line(one, RuntimeKind.PODMAN))
    assert deployment.store.password not in shown
    assert f"requirepass {deployment.store.password}\n" in store.mounts[0].source.read_text()
    assert store.mounts[0].source.parent.stat().st_mode & 0o777 == 0o700


def test_the_store_is_restricted_as_the_service_is_and_publishes_nothing() -> None:
    launch = Launch(name="kv", replicas=2)
    store = deployment_of(launch).store
    assert store is not None
    workload = prepare_store(launch, store, Contained(), dry=True)
    assert (workload.publications, workload.networks) == ((), ("kv-replicas",))
    shown = " ".join(command_line(workload, RuntimeKind.PODMAN))
    for restriction in (
        "--user 10001:10001",
        "--read-only",
        "--cap-drop ALL",
        "--pids-limit 512",
        "--memory 2147483648",
    ):
        assert restriction in shown


def test_replicas_that_are_given_a_store_get_no_other() -> None:
    deployment = deployment_of(Launch(name="kv", replicas=2, environment={"SHARED_STATE": "valkey://10.0.0.2"}))
    assert deployment.store is None
    assert deployment.names == ("kv-1", "kv-2")
    assert {replica.environment["SHARED_STATE"] for replica in deployment.replicas} == {"valkey://10.0.0.2"}
    assert {replica.networks for replica in deployment.replicas} == {()}


@pytest.mark.parametrize("store", [{}, {"SHARED_STATE": "valkey://10.0.0.2"}], ids=["of its own", "given"])
def test_replicas_start_from_the_snapshot_in_their_store_unless_told_otherwise(store: dict[str, str]) -> None:
    def sources(**environment: str) -> list[str | None]:
        deployment = deployment_of(Launch(name="kv", replicas=2, environment=store | environment))
        return [replica.environment.get("BOOTSTRAP_FROM") for replica in deployment.replicas]

    assert sources() == ["shared", "shared"]
    assert sources(BOOTSTRAP_FROM="") == ["", ""]
    assert deployment_of(Launch(environment=store)).replicas[0].environment == store


def test_files_that_the_address_of_a_store_names_are_brought_into_the_container(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # the user of the container reads it
    (tmp_path / "password").write_text("secret")
    address = f"valkey://localhost:6380?password_file={tmp_path}/password"
    workload = prepare(Launch(zmq_endpoint="", environment={"SHARED_STATE": address}), Contained())
    (secrets,) = (mount.source for mount in workload.mounts if mount.target == "/run/secrets/environment")
    (folder,) = (mount.target for mount in workload.mounts if mount.source == tmp_path)
    seen = f"valkey://host.containers.internal:6380?password_file={folder}/password"
    assert load({VARIABLE: str(secrets)})["SHARED_STATE"] == seen


def test_port_0_is_a_free_port_for_each_replica() -> None:
    ports = [replica.port for replica in deployment_of(Launch(port=0, replicas=3)).replicas]
    assert len(set(ports)) == 3
    assert 0 not in ports
    assert deployment_of(Launch(port=0)).replicas[0].port > 0


def test_ports_that_engines_connect_to_are_those_of_the_first_replica() -> None:
    deployment = deployment_of(Launch(port=8080, replicas=2, zmq_endpoint="tcp://*:5557"))
    assert [port.number for port in all_ports(deployment.replicas, RuntimeKind.PODMAN)] == [8080, 5557, 8081]


def test_a_port_that_two_replicas_want_is_refused() -> None:
    deployment = deployment_of(Launch(port=8080, replicas=2, environment={"METRICS_PORT": "8081"}))
    with pytest.raises(UsageError, match="Port 8081 is wanted twice"):
        all_ports(deployment.replicas, RuntimeKind.PODMAN)


def test_a_taken_port_of_any_replica_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        deployment = deployment_of(Launch(port=taken - 1, replicas=2))
        # Another process may have the first one.
        assert [port.number for port, _ in taken_ports(deployment.replicas, Contained())][-1] == taken


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"replicas": 0}, "--replicas: 0 is too few"),
        ({"replicas": 3, "runtime": RuntimeKind.PROCESS}, "--replicas: 3 need containers"),
        ({"replicas": 3, "port": 65534}, "--replicas: 3 ports from 65534 on"),
        ({"replicas": 2, "name": "n" * 60}, "is too long for --replicas"),
    ],
)
def test_replicas_that_cannot_be_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Launch(**options)  # type: ignore[arg-type]
