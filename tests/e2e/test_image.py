"""When the image is built, and what is left when that goes wrong or is ended."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import wait_until
from tests.e2e.containers import RuntimeCommand, Up, checkout


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_an_unchanged_up_skips_the_build_and_is_ready_soon(make_up: Callable[..., Up]) -> None:
    up = make_up()
    command = up.start()
    command.wait_for("kvcache is ready!")

    assert f"Image {up.runtime.image} is up to date, build skipped" in command.output
    assert "Building image" not in command.output


def test_the_same_files_elsewhere_are_the_same_image(make_up: Callable[..., Up], tmp_path: Path) -> None:
    command = make_up(checkout(tmp_path / "copy")).start("-d")
    assert "is up to date, build skipped" in command.finish().output


def test_a_changed_service_is_built_on_the_layers_that_did_not_change(
    make_up: Callable[..., Up], runtime: RuntimeCommand, tmp_path: Path
) -> None:
    copy = checkout(tmp_path / "copy")
    (copy / "service" / "changed.py").touch()
    image = f"{runtime.image}-changed"
    runtime("tag", runtime.image, image)

    def layers() -> set[str]:
        return set(json.loads(runtime("image", "inspect", "--format", "{{json .RootFS.Layers}}", image)))

    before = layers()
    try:
        done = make_up(copy).start("-d", "--image", image).finish(400)
        assert done.code == 0, done.output
        assert f"Successfully tagged {image}" in done.output
        assert len(before - layers()) == len(layers() - before) == 1  # the service's own files

        forced = make_up(copy).start("-d", "--image", image, "--build").finish(400)
        assert f"Successfully tagged {image}" in forced.output
    finally:
        runtime("rmi", "--force", image, check=False)


def test_no_build_takes_the_image_as_it_is_and_says_what_to_do_without_one(make_up: Callable[..., Up]) -> None:
    there = make_up().start("-d", "--no-build").finish()
    assert there.code == 0
    assert "(--no-build)" in there.output

    missing = make_up().start("--no-build", "--image", "kvcache-e2e-none").finish()
    assert missing.code == 1
    assert "Error: There is no image kvcache-e2e-none, and --no-build forbids building it." in missing.output


def test_a_failed_build_shows_its_last_lines_and_leaves_nothing(
    make_up: Callable[..., Up], runtime: RuntimeCommand, tmp_path: Path
) -> None:
    copy = checkout(tmp_path / "copy")
    _edit(copy / "Containerfile", "ARG PIP_INDEX_URL\n", "RUN echo what went wrong && exit 7\n")
    before = runtime.containers()
    up = make_up(copy)
    done = up.start("--image", f"{runtime.image}-failed").finish()

    assert done.code == 1
    assert "  | what went wrong" in done.output
    assert "Error: The image does not build" in done.output
    assert "Traceback" not in done.output
    wait_until(lambda: runtime.containers() <= before)
    assert up.left() == []


def test_a_base_image_that_is_not_to_be_had_is_said_with_the_option_to_change_it(make_up: Callable[..., Up]) -> None:
    done = make_up().start("--base-image", "localhost/kvcache-no-such-base:1").finish(400)
    assert done.code == 1
    assert "kvcache-no-such-base" in done.output
    assert "--base-image" in done.output.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_during_the_build_ends_it_and_what_it_runs(
    make_up: Callable[..., Up], runtime: RuntimeCommand, tmp_path: Path, number: signal.Signals
) -> None:
    copy = checkout(tmp_path / "copy")
    _edit(copy / "Containerfile", "ARG PIP_INDEX_URL\n", f"RUN {runtime.sleep}\n")
    before = runtime.containers()
    up = make_up(copy)
    command = up.start("--image", f"{runtime.image}-interrupted")
    wait_until(runtime.sleeps, told=lambda: command.output)
    command.process.send_signal(number)
    done = command.finish()

    assert done.code == 0
    assert "Received shutdown signal" in done.output
    wait_until(lambda: not runtime.sleeps())
    wait_until(lambda: runtime.containers() <= before)
    assert up.left() == []


def test_secrets_of_a_proxy_or_an_index_are_not_in_the_image(
    make_up: Callable[..., Up], runtime: RuntimeCommand, tmp_path: Path
) -> None:
    image = f"{runtime.image}-secret"
    copy = checkout(tmp_path / "copy")
    # Nothing answers at these addresses, so that what would be installed has to wait for another test.
    _edit(copy / "Containerfile", "RUN /build/pip/bin/pip", 'RUN test -n "$PIP_INDEX_URL" || /build/pip/bin/pip')
    environment = {
        "HTTP_PROXY": "http://user:proxy-password@127.0.0.1:9",
        "PIP_INDEX_URL": "https://user:index-password@127.0.0.1:9/simple",
    }
    try:
        done = make_up(copy).start("--image", image, environment=environment).finish(400)
        assert f"Successfully tagged {image}" in done.output
        shown = runtime("history", "--no-trunc", image) + runtime("image", "inspect", image)
        assert "io.kvcache.content" in shown
        assert "-password" not in shown
    finally:
        runtime("rmi", "--force", image, check=False)


def test_an_image_without_compiled_loops_says_so_and_is_built_again_by_the_next_up(
    changed: Callable[[str, str], Up], runtime: RuntimeCommand
) -> None:
    image = f"{runtime.image}-fallback"
    up = changed(
        'RUN test "$LOOPS" = compiled || exit 0; \\\n    command -v cc',
        'RUN test "$LOOPS" = compiled || exit 0; exit 75; \\\n    command -v cc',
    )
    # What is not to be run need not be installed.
    containerfile = up.kvcache.root / "Containerfile"
    containerfile.write_text(
        containerfile.read_text().replace("RUN /build/pip/bin/pip", "RUN true || /build/pip/bin/pip", 1)
    )
    try:
        first = up.start("--image", image).finish(400)
        assert "Warning: The inner loops could not be compiled." in first.output, first.output
        assert "Warning: The image's inner loops are not compiled, so the service is slower" in first.output
        assert (
            runtime("image", "inspect", "--format", '{{index .Config.Labels "io.kvcache.loops"}}', image)
            == "fallback-for-now"
        )

        again = up.start("--image", image).finish(400)
        assert f"Image {image} has no compiled loops yet, trying again" in again.output
        doctor = up.kvcache.run("doctor", "--runtime", runtime.kind, "--image", image, "--model", "builtin/demo")
        assert "its inner loops are not compiled" in doctor.output
    finally:
        runtime("rmi", "--force", image, check=False)


def test_a_base_image_without_python_is_refused_by_name(
    make_up: Callable[..., Up], runtime: RuntimeCommand, tmp_path: Path
) -> None:
    base = f"localhost/{runtime.image}-no-python"
    (tmp_path / "Dockerfile").write_text(f"FROM {os.environ['KVCACHE_BASE_IMAGE']}\nRUN rm -f /usr/bin/python3*\n")
    runtime("build", "--tag", base, str(tmp_path))
    try:
        done = make_up().start("--base-image", base, "--image", f"{runtime.image}-none").finish(400)
        assert done.code == 1
        assert f"Error: The base image {base} has no python3." in done.output
    finally:
        runtime("rmi", "--force", base, check=False)


def test_stages_of_earlier_and_of_failed_builds_are_removed(
    changed: Callable[[str, str], Up], runtime: RuntimeCommand
) -> None:
    image = f"{runtime.image}-stages"
    up = changed("COPY service/ /opt", "RUN true\nCOPY service/ /opt")

    def unused(stage: str) -> set[str]:
        named = ("--filter", "dangling=true", "--filter", f"label=io.kvcache.stage={stage}")
        return set(runtime("images", "--quiet", *named).split())

    try:
        _edit(up.kvcache.root / "Containerfile", "EXPOSE 8080\n", "RUN exit 7\n")
        assert up.start("-d", "--image", image).finish(400).code == 1
        _edit(up.kvcache.root / "Containerfile", "RUN exit 7\n", "EXPOSE 8080\n")
        for number in range(2):
            (up.kvcache.root / "service" / "changed.py").write_text(f"# {number}\n")
            assert up.start("-d", "--image", image).finish(400).code == 0
            runtime("rm", "--force", up.name)
        assert (len(unused("build")) <= 1, unused("service")) == (True, set())
    finally:
        runtime("rmi", "--force", image, check=False)
