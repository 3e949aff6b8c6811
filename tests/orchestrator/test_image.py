from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import BuildFailed, Problem
from orchestrator.image import Loops, Recipe, Step, explained, loops_without_compiler, recipe, step_of
from orchestrator.launch import Launch
from orchestrator.runtimes.build_output import output_lines
from tests.conftest import ROOT

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n"


def test_the_context_holds_the_containerfile_the_service_and_its_locked_requirements() -> None:
    files = recipe(Launch(), {}).files

    assert files["Containerfile"] == (ROOT / "Containerfile").read_bytes()
    assert files["service/requirements.lock"] == (ROOT / "service" / "requirements.lock").read_bytes()
    assert "service/__main__.py" in files
    assert not [path for path in files if "__pycache__" in path or path.startswith(("orchestrator", "tests"))]


def test_the_archive_is_the_same_bytes_for_the_same_files() -> None:
    one = Recipe({"b": b"2", "a": b"1"}, {})
    assert one.archive() == Recipe({"a": b"1", "b": b"2"}, {}).archive()
    with tarfile.open(fileobj=io.BytesIO(one.archive())) as archive:
        assert archive.getnames() == ["a", "b"]


def test_the_hash_changes_with_a_file_the_base_image_and_each_build_argument(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(_CERTIFICATE)
    plain = recipe(Launch(), {})
    others = [
        replace(plain, files={**plain.files, "service/__main__.py": b"pass"}),
        replace(plain, files={**plain.files, "service/more.py": b""}),
        recipe(Launch(base_image="docker.io/library/python:3.13-slim"), {}),
        recipe(Launch(ca_bundle=bundle), {}),
        recipe(Launch(), {"HTTPS_PROXY": "http://user:password@proxy:3128"}),
        recipe(Launch(), {"PIP_INDEX_URL": "https://index.example.org/simple"}),
    ]
    assert recipe(Launch(), {}).content == plain.content
    assert len({plain.content, *(other.content for other in others)}) == 1 + len(others)


def test_what_is_the_services_own_matter_does_not_change_the_image() -> None:
    assert recipe(Launch(model="a/b", port=1, name="x"), {"HF_TOKEN": "t"}).content == recipe(Launch(), {}).content


def test_certificates_must_be_some(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("hello")
    with pytest.raises(Problem, match="holds no certificate"):
        recipe(Launch(ca_bundle=bundle), {})


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("Step 3/23 : ARG PIP_INDEX_URL", Step("ARG PIP_INDEX_URL", 3, 23)),
        ("STEP 3/23: RUN a  \t && b", Step("RUN a && b", 3, 23)),
        ("[1/2] STEP 4/9: RUN x", Step("RUN x", None, None)),
        ("Successfully tagged x", None),
        (" ---> 003d911eadd4", None),
    ],
)
def test_steps_are_known_in_what_docker_and_podman_print(line: str, step: Step | None) -> None:
    assert step_of(line) == step


def test_an_installed_wheel_builds_the_same_image_as_the_checkout(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    program = """
import orchestrator, os
from orchestrator.image import recipe
from orchestrator.launch import Launch
print(os.path.dirname(orchestrator.__file__), recipe(Launch(), {}).content)
"""
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            archive.extract(member, site)
    installed = subprocess.run([sys.executable, "-c", program], cwd=site, check=True, capture_output=True, text=True)

    assert installed.stdout.split() == [str(site / "orchestrator"), recipe(Launch(), {}).content]


@pytest.mark.parametrize(
    ("code", "said"),
    [(81, "has no python3"), (82, "has a Python older than 3.11"), (83, "has a Python without venv")],
)
def test_a_base_image_that_cannot_be_built_on_is_named_with_the_reason(code: int, said: str) -> None:
    failure = BuildFailed("The image does not build", "", exit_code=code)
    shown = explained(failure, Launch(base_image="example/base"), fetches_base=False, last_lines=())
    assert shown.what.startswith(f"The base image example/base {said}")
    assert "--base-image" in shown.remedy


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("The command '/bin/sh -c false' returned a non-zero code: 75", 75),
        ('error building at STEP "RUN false": error while running runtime: exit status 75', 75),
        ("manifest unknown", None),
    ],
)
def test_the_exit_code_of_a_failed_step_is_known_in_what_docker_and_podman_print(
    message: str, code: int | None
) -> None:
    with pytest.raises(BuildFailed) as raised:
        list(output_lines({"error": message}))
    assert raised.value.exit_code == code


@pytest.mark.parametrize(
    ("code", "loops"),
    [(75, Loops.FALLBACK_FOR_NOW), (69, Loops.FALLBACK), (70, Loops.FALLBACK), (1, None), (None, None)],
)
def test_a_build_without_a_compiler_is_repeated_without_compiled_loops(code: int | None, loops: Loops | None) -> None:
    assert loops_without_compiler(BuildFailed("", "", exit_code=code)) is loops


def test_certificates_that_this_machine_trusts_anyway_do_not_change_the_image(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(_CERTIFICATE)
    with_bundle = recipe(Launch(), {"SSL_CERT_FILE": str(bundle)})
    assert with_bundle.content == recipe(Launch(), {}).content
    assert b"-----BEGIN CERTIFICATE-----" in with_bundle.archive()
