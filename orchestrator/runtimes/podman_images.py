"""Podman's images and builds; podman-py's own `build` returns the output only after the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any

import requests
from podman.errors import APIError, ImageNotFound

from orchestrator.errors import Problem
from orchestrator.host.ownership import Owner
from orchestrator.runtimes.base import BUILD_STAGE, CONTENT_LABEL, STAGE_LABEL, STAGES, ImageBuild
from orchestrator.runtimes.build_output import output_lines
from orchestrator.runtimes.podman_api import PodmanApi, podman_errors
from orchestrator.runtimes.podman_leftovers import OWNER_ARGUMENT
from orchestrator.runtimes.podman_service import PodmanService

# Podman's own OCI format cannot store a health check.
_DOCKER_FORMAT = "application/vnd.docker.distribution.manifest.v2+json"


class PodmanImages:
    """Implements runtimes.base.Images."""

    def __init__(self, client: Any, api: PodmanApi, service: PodmanService | None) -> None:
        self._client = client
        self._api = api
        self._service = service

    def labels(self, reference: str) -> Mapping[str, str] | None:
        image = self._get(reference)
        return None if image is None else image.attrs.get("Labels") or {}

    def _get(self, reference: str) -> Any:
        with podman_errors("inspect an image"):
            try:
                return self._client.images.get(reference)
            except ImageNotFound:
                return None

    def build(self, build: ImageBuild) -> Generator[str, None, None]:
        before = self._get(build.reference)
        # A build can be stopped only together with its API process, so it gets one of ours if possible.
        service = self._service or (PodmanService() if self._api.local and shutil.which("podman") else None)
        client = PodmanApi(service.url).client() if service else self._api.client()
        try:
            with podman_errors("build the image"):
                yield from _build_output(client, build, service)
        finally:
            client.close()
            if service and service is not self._service:
                service.close()
        self._remove_unused(before)

    def remove_old_stages(self) -> None:
        with suppress(Problem):  # a broken image of somebody else, which keeps Podman from listing any, stops nothing
            for stage in STAGES:
                with podman_errors("list images"):
                    unused = self._client.images.list(filters={"dangling": True, "label": f"{STAGE_LABEL}={stage}"})
                unused.sort(key=lambda image: int(image.attrs["Created"]))
                for image in unused[:-1] if stage == BUILD_STAGE else unused:
                    self._remove_unused(image)

    def run(self, reference: str, command: Sequence[str]) -> str:
        with podman_errors("run a container"):
            program, *arguments = command  # an empty entrypoint would be the image's own
            container = self._client.containers.create(reference, arguments, entrypoint=[program])
            try:
                container.start()
                if code := container.wait():
                    raise Problem(f"A container of {reference} ended with code {code}.", "See what `podman run` says.")
                shown = b"".join(container.logs(stdout=True, stderr=True))
            finally:
                container.remove(force=True)
            return shown.decode("utf-8", "replace").strip()

    def prune(self) -> list[str]:
        removed = []
        with podman_errors("remove images"):
            for label in (CONTENT_LABEL, STAGE_LABEL):
                for image in self._client.images.list(filters={"label": label}):
                    try:
                        self._client.images.remove(image.id)
                    except APIError:
                        continue  # in use
                    removed.append(", ".join(image.tags) or f"build stage {image.short_id}")
        return removed

    def refusal(self, reference: str) -> str | None:
        if self._get(reference) is not None:
            return None
        try:
            self._client.manifests.get(reference)
        except (APIError, requests.RequestException) as error:
            return getattr(error, "explanation", None) or str(error)
        return None

    def pull(self, reference: str) -> None:
        with podman_errors(f"fetch the image {reference}"):
            self._client.images.pull(reference)

    def _remove_unused(self, before: Any) -> None:
        if before is None:
            return
        with podman_errors("remove the image of before"):
            try:
                if not self._client.images.get(before.id).tags:
                    self._client.images.remove(before.id)
            except (ImageNotFound, APIError):
                return  # still in use


def _build_output(client: Any, build: ImageBuild, service: PodmanService | None) -> Iterator[str]:
    response = client.api.post(
        "/build",
        params={
            "dockerfile": "Containerfile",
            "t": build.reference,
            "buildargs": json.dumps({**build.arguments, OWNER_ARGUMENT: str(Owner.this_process())}),
            "labels": json.dumps(dict(build.labels)),
            "outputformat": _DOCKER_FORMAT,
            "layers": True,
            "rm": True,
            "forcerm": True,
            **({"pull": True} if build.pull else {}),
            **({"networkmode": "host"} if build.host_network else {}),
        },
        data=build.context,
        headers={"Content-Type": "application/x-tar"},
        stream=True,
    )
    response.raise_for_status()
    # A signal during a read would close the connection, the only way to notice the end of a build.
    lines: SimpleQueue[bytes | requests.RequestException | None] = SimpleQueue()
    reader = Thread(target=_read, args=(response, lines), daemon=True)
    reader.start()
    try:
        while (line := lines.get()) is not None:
            if isinstance(line, requests.RequestException):
                raise line
            message = json.loads(line)
            yield from output_lines(message)
    finally:
        if service:
            service.end_build(reader)
        response.close()


def _read(response: requests.Response, lines: SimpleQueue[bytes | requests.RequestException | None]) -> None:
    try:
        for line in response.iter_lines():
            lines.put(line)
    except requests.RequestException as error:
        lines.put(error)
    lines.put(None)
