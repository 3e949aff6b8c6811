"""Checks whether the image exists and is up to date, and otherwise whether it can be built."""

from __future__ import annotations

import os
from collections.abc import Iterator

from orchestrator.deployment import needs_store
from orchestrator.doctor.finding import Finding, ok, problem, warning
from orchestrator.errors import Problem
from orchestrator.image import Loops, loops_of_current_image, recipe, valkey_image, valkey_recipe
from orchestrator.launch import Launch
from orchestrator.runtimes.base import CONTENT_LABEL, Images

_LEAST_PYTHON = (3, 11)


def check_image(launch: Launch, images: Images) -> Iterator[Finding]:
    try:
        wanted = recipe(launch, os.environ)
    except Problem as found:
        yield problem("image", found.what, found.remedy)
        return
    loops = loops_of_current_image(images, launch.image, wanted)
    if loops is Loops.COMPILED:
        yield ok("image", f"{launch.image} is up to date, and its inner loops are compiled")
        yield _check_start(launch.image, images)
        return
    if loops:
        again = "`up` tries again" if loops is Loops.FALLBACK_FOR_NOW else "use another --base-image"
        yield warning("image", f"{launch.image} is up to date, but slower: its inner loops are not compiled", again)
        yield _check_start(launch.image, images)
        return
    there = images.labels(launch.image) is not None
    yield ok("image", f"{launch.image} {'is out of date' if there else 'is not there'}; `up` builds it")
    yield _check_base(launch, images)


def check_valkey(launch: Launch, images: Images) -> Iterator[Finding]:
    """The image of the Valkey where replicas meet, if `up` starts one."""
    if not needs_store(launch):
        return
    reference = valkey_image(launch)
    there = images.labels(reference)
    if launch.valkey_image is None:
        current = there is not None and there.get(CONTENT_LABEL) == valkey_recipe(launch, os.environ).content
        told = "is up to date" if current else f"{'is out of date' if there else 'is not there'}; `up` builds it"
        yield ok("valkey image", f"{reference} {told}")
    elif there is not None:
        yield ok("valkey image", f"{reference} is here")
    elif refusal := images.refusal(reference):
        yield problem(
            "valkey image",
            f"{reference} is not here and cannot be pulled: {refusal}",
            "Name another with --valkey-image; or leave that out, and `up` builds one.",
        )
    else:
        yield ok("valkey image", f"{reference} can be had from its registry")


def _check_start(reference: str, images: Images) -> Finding:
    """Whether a container can be started at all; it cannot where a rootless runtime lacks /dev/net/tun, for example."""
    try:
        images.run(reference, ["python3", "-c", ""])
    except Problem as found:
        return problem("container", f"none can be started: {found.what}", "See what the runtime's own `run` says.")
    return ok("container", f"one of {reference} can be started")


def _check_base(launch: Launch, images: Images) -> Finding:
    if images.labels(launch.base_image) is not None:
        return _check_python(launch, images)
    if refusal := images.refusal(launch.base_image):
        return problem(
            "base image",
            f"{launch.base_image} is not here and cannot be pulled: {refusal}",
            "Name an image that can, with Python 3.11 or newer: --base-image (scripts/base-image makes one on Debian); "
            "or run without a container: --runtime process.",
        )
    return ok("base image", f"{launch.base_image} can be had from its registry")


def _check_python(launch: Launch, images: Images) -> Finding:
    """Runs the base image, which also tests whether a container can start at all."""
    program = "import ensurepip, sys, venv; print('.'.join(map(str, sys.version_info[:2])))"
    try:
        version = images.run(launch.base_image, ["python3", "-c", program])
    except Problem as found:
        return problem(
            "base image",
            f"{launch.base_image} is here, but its Python does not run: {found.what}",
            "If no container can be started here, see what the runtime's own `run` says; else change --base-image.",
        )
    if tuple(map(int, version.split(".")[:2])) < _LEAST_PYTHON:
        return problem(
            "base image", f"{launch.base_image} has Python {version}", "Use one with 3.11 or newer: --base-image"
        )
    return ok("base image", f"{launch.base_image} is here, with Python {version}, and containers can be started")
