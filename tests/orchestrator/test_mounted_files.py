from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.launch import Launch
from orchestrator.mounted_files import mounted_file, mounted_files


def test_the_folder_of_a_file_is_mounted_so_that_a_replaced_file_is_seen(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").touch()
    (found,) = mounted_files([("--tls-cert", tmp_path / "cert.pem")])
    assert (found.path, found.mount.source, found.mount.read_only) == ("/run/files/tls-cert/cert.pem", tmp_path, True)
    assert found.mount.target == "/run/files/tls-cert"


def test_a_link_inside_the_folder_is_followed_and_one_out_of_it_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "live"
    (folder / "2026").mkdir(parents=True)
    for target in (folder / "2026" / "cert.pem", tmp_path / "archive.pem"):
        target.touch()
    (folder / "cert.pem").symlink_to("2026/cert.pem")
    (folder / "out.pem").symlink_to("../archive.pem")
    assert mounted_files([("--tls-cert", folder / "cert.pem")])[0].path == "/run/files/tls-cert/cert.pem"
    with pytest.raises(UsageError, match=r"--tls-cert: .* is a link to"):
        mounted_files([("--tls-cert", folder / "out.pem")])
    with pytest.raises(UsageError, match=r"PODS_FILE: .* is a link to"):
        mounted_file("PODS_FILE", folder / "out.pem", "file-0")


def test_the_files_of_settings_endpoints_and_pods_are_mounted_and_named_as_a_container_sees_them(
    tmp_path: Path,
) -> None:
    (tmp_path / "engines").mkdir()
    for name in ("engine.key", "keys.json", "pods.yaml", "pod.key", "more.yaml"):
        (tmp_path / name).touch()
    launch = Launch(
        zmq_endpoint=f"tcp://*:5557,curve={tmp_path}/engines,tcp://10.0.0.7:5557,curve={tmp_path}/engine.key",
        pods=f"http://10.0.0.7:8000,key_file={tmp_path}/pod.key",
        discovery=f"file:{tmp_path}/more.yaml",
        environment={
            "ZMQ_CURVE_KEY": str(tmp_path / "engine.key"),
            "API_KEYS_FILE": str(tmp_path / "keys.json"),
            "PODS_FILE": str(tmp_path / "pods.yaml"),
        },
    )
    assert [(file.named_by, file.path) for file in launch.named_files] == [
        ("ZMQ_CURVE_KEY", tmp_path / "engine.key"),
        ("PODS_FILE", tmp_path / "pods.yaml"),
        ("API_KEYS_FILE", tmp_path / "keys.json"),
        ("--zmq-endpoint tcp://*:5557, curve", tmp_path / "engines"),
        ("--zmq-endpoint tcp://10.0.0.7:5557, curve", tmp_path / "engine.key"),
        ("--pod http://10.0.0.7:8000, key_file", tmp_path / "pod.key"),
        ("--discovery", tmp_path / "more.yaml"),
    ]
    (folder,) = mounted_files([("curve-1", tmp_path / "engines")])
    assert (folder.path, folder.mount.source) == ("/run/files/curve-1", tmp_path / "engines")
