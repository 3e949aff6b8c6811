"""A small HTTP server that speaks the part of the hub's protocol by which huggingface_hub fetches files of a model."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """A model on the hub, and what is the matter with it."""

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    status: int | None = None
    """What every request is answered with, if anything."""
    silent: bool = False
    """Whether requests are never answered."""
    cut: str | None = None
    """The file whose content ends half-way, with the connection."""
    commit: str = COMMIT
    """The latest commit of the branch "main"."""
    older: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files of other revisions by their names, which are commits."""

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and the files of a revision; None if there is no such revision."""
        if revision in {"main", self.commit}:
            return self.commit, self.files
        return (revision, self.older[revision]) if revision in self.older else None


@dataclass
class FakeHub:
    """The hub: its models, the tokens that it takes, and what it was asked."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=lambda: {"hf_good"})
    asked: Counter[str] = field(default_factory=Counter)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once anything was asked."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the hub shuts down."""
    html: bool = False
    """Whether it is no hub at all but a page that says so."""
    url: str = ""

    def files_asked_for(self) -> set[str]:
        """The names of the files whose content went out."""
        return {
            request.split("/resolve/")[1].partition("/")[2]
            for request in self.asked
            if request.startswith("GET") and "/resolve/" in request
        }

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked[f"{request.method} {request.path}"] += 1
        self.heard.set()
        if self.html:
            return web.Response(text="<html>Log in to the network</html>", content_type="text/html")
        path = request.path.removeprefix("/api/models/").lstrip("/")
        name, revision, file = _parsed(path)
        repository = self.repositories.get(name)
        if (refusal := self._refusal(request, repository)) is not None:
            return refusal
        assert repository is not None
        if repository.silent:
            await self.over.wait()
            return _error(503)
        if (found := repository.at(revision)) is None:
            return _error(404, code="RevisionNotFound", message="Invalid rev id")
        commit, files = found
        if not file:
            return self._info(name, commit, files)
        return await self._file(request, commit, files.get(file), is_cut=repository.cut == file)

    def _refusal(self, request: web.Request, repository: Repository | None) -> web.Response | None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            return _error(401, message="Invalid credentials in Authorization header")
        if repository is None or (repository.private and not token):
            # So that nobody learns which private models there are.
            return _error(404, code="RepoNotFound") if token else _error(401, message="Invalid username or password.")
        if repository.gated:
            return _error(403 if token else 401, code="GatedRepo", message="Access to model is restricted")
        return _error(repository.status) if repository.status is not None else None

    def _info(self, name: str, commit: str, files: dict[str, bytes]) -> web.Response:
        siblings = [{"rfilename": file, "size": len(content), "blobId": file} for file, content in files.items()]
        return web.json_response({"id": name, "modelId": name, "sha": commit, "private": False, "siblings": siblings})

    async def _file(
        self, request: web.Request, commit: str, content: bytes | None, *, is_cut: bool
    ) -> web.StreamResponse:
        if content is None:
            return _error(404, code="EntryNotFound", message="Entry not found", commit=commit)
        headers = {"ETag": f'"{hashlib.sha1(content, usedforsecurity=False).hexdigest()}"', "X-Repo-Commit": commit}
        headers["Content-Length"] = str(len(content))
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        if request.method == "GET":
            await response.write(content[: len(content) // 2] if is_cut else content)
            if is_cut:
                assert request.transport is not None
                request.transport.close()
        return response


def _parsed(path: str) -> tuple[str, str, str]:
    """The name, the revision and the file, which may be empty, of a path below the API or of a file."""
    name, resolve, rest = path.partition("/resolve/")
    if resolve:
        revision, _, file = rest.partition("/")
        return name, revision, file
    name, _, revision = path.partition("/revision/")
    return name, revision or "main", ""


def _error(status: int, *, code: str | None = None, message: str | None = None, commit: str = COMMIT) -> web.Response:
    headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit}
    return web.Response(status=status, headers={name: value for name, value in headers.items() if value is not None})


@asynccontextmanager
async def running_hub() -> AsyncIterator[FakeHub]:
    """Runs a hub on a free port of this machine."""
    hub = FakeHub()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hub.answer)
    server = TestServer(app)
    await server.start_server()
    hub.url = str(server.make_url("")).rstrip("/")
    yield hub
    hub.over.set()
    await server.close()
