"""Pods of a Kubernetes namespace, by label: its Pods or EndpointSlices, listed once and then watched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import aiohttp
import msgspec

from service.contract.discovery import SourceEntry, namespace_and_selector, reads_slices
from service.fleet.discovery.base import Present, SourceFailed
from service.fleet.discovery.kubernetes_access import Access, of_kubeconfig, own_account
from service.fleet.discovery.kubernetes_objects import EndpointSlice, KubernetesPod, Metadata, of_pods, of_slices

_PAGE: Final = 500
_WATCH_SECONDS: Final = 60
"""How long the server keeps a watch open; a connection that is silent for longer is lost."""
_PATIENCE: Final = 30.0
_PAUSE: Final = 0.5
_MAX_EVENT_BYTES: Final = 16 << 20
_GONE: Final = 410

_Object: TypeAlias = KubernetesPod | EndpointSlice


class _List(msgspec.Struct):
    metadata: dict[str, Any]
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Bookmark(msgspec.Struct):
    metadata: Metadata


class _Expired(Exception):
    """The server does not know the version any more: everything must be listed again."""


_list = msgspec.json.Decoder(_List)
_event = msgspec.json.Decoder(_Event)
_status = msgspec.json.Decoder(_Status)
_bookmark = msgspec.json.Decoder(_Bookmark)


class KubernetesPods:
    """Pods of Kubernetes. `read` gives the pods of all objects, of the type `kind`, that the selector matches."""

    def __init__(
        self, entry: SourceEntry, path: str, kind: type[_Object], read: Callable[[SourceEntry, list[Any]], Present]
    ) -> None:
        self.name = str(entry)
        self._entry = entry
        namespace, self._selector = namespace_and_selector(entry.place)
        self._path = path.format(namespace=quote(namespace))
        self._decoder: msgspec.json.Decoder[_Object] = msgspec.json.Decoder(kind)
        self._read = read

    async def watch(self) -> AsyncGenerator[Present, None]:
        try:
            access = self._access()
            connector = aiohttp.TCPConnector(ssl=access.tls)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_PATIENCE / 3, sock_read=_PATIENCE)
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
                while True:
                    try:
                        async with aclosing(_Following(self, session, access).presents()) as presents:
                            async for present in presents:
                                yield present
                    except _Expired:
                        await asyncio.sleep(_PAUSE)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise SourceFailed(str(error) or type(error).__name__) from None

    def _access(self) -> Access:
        path = self._entry.option("kubeconfig")
        return of_kubeconfig(Path(path).expanduser()) if path else own_account()

    def present(self, objects: dict[str, _Object]) -> Present:
        return self._read(self._entry, list(objects.values()))

    def decode(self, item: msgspec.Raw) -> _Object:
        return self._decoder.decode(item)

    @property
    def path(self) -> str:
        return self._path

    @property
    def selector(self) -> str:
        return self._selector


class _Following:
    """One list, and the watches that continue it."""

    def __init__(self, source: KubernetesPods, session: aiohttp.ClientSession, access: Access) -> None:
        self._source = source
        self._session = session
        self._access = access
        self._objects: dict[str, _Object] = {}
        self._version = ""

    async def presents(self) -> AsyncGenerator[Present, None]:
        """Raises _Expired when the list is too old to be continued, and SourceFailed."""
        await self._list()
        yield self._source.present(self._objects)
        while True:
            async with await self._get(
                watch="1",
                allowWatchBookmarks="true",
                resourceVersion=self._version,
                timeoutSeconds=str(_WATCH_SECONDS),
            ) as response:
                try:
                    async for lines in _lines(response):
                        changed = [self._apply(_event.decode(line)) for line in lines]
                        if any(changed):
                            yield self._source.present(self._objects)
                except (aiohttp.ClientError, TimeoutError):  # a broken connection: the next watch continues
                    pass
            await asyncio.sleep(_PAUSE)

    async def _list(self) -> None:
        following = ""
        while True:
            async with await self._get(limit=str(_PAGE), **({"continue": following} if following else {})) as response:
                page = _list.decode(await response.read())
            for item in page.items or ():
                one = self._source.decode(item)
                self._objects[one.metadata.name] = one
            self._version, following = page.metadata.get("resourceVersion", ""), page.metadata.get("continue", "")
            if not following:
                return

    async def _get(self, **parameters: str) -> aiohttp.ClientResponse:
        """The response to a request that was let in. Raises _Expired and SourceFailed."""
        watches = "watch" in parameters
        silence = _WATCH_SECONDS + _PATIENCE if watches else _PATIENCE
        response = await self._session.get(
            self._access.server + self._source.path,
            params={"labelSelector": self._source.selector, **parameters},
            headers=self._access.headers(),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_PATIENCE / 3, sock_read=silence),
        )
        if response.status == 200:
            return response
        async with response:
            body = await response.content.read(1 << 16)
        if response.status == _GONE:
            raise _Expired
        raise SourceFailed(_refusal(response.status, body))

    def _apply(self, event: _Event) -> bool:
        """Whether the event changed an object. Raises _Expired and SourceFailed."""
        if event.type == "ERROR":
            status = _status.decode(event.object)
            if status.code == _GONE:
                raise _Expired
            raise SourceFailed(f"{status.code}: {status.message}")
        self._version = _bookmark.decode(event.object).metadata.resource_version
        if event.type == "BOOKMARK":
            return False
        one = self._source.decode(event.object)
        if event.type == "DELETED":
            self._objects.pop(one.metadata.name, None)
        else:
            self._objects[one.metadata.name] = one
        return True


def _refusal(status: int, body: bytes) -> str:
    try:
        message = _status.decode(body).message
    except msgspec.MsgspecError:
        message = body.decode("utf-8", "replace").strip()
    return f"Kubernetes answers {status}: {message[:500]}"


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[list[bytes]]:
    """The lines of a stream, as many at a time as have arrived. Raises SourceFailed for one that is far too long."""
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > _MAX_EVENT_BYTES:
            raise SourceFailed(f"an event of Kubernetes has more than {_MAX_EVENT_BYTES} bytes")
        if found := [line for line in lines if line.strip()]:
            yield found


def kubernetes_pods(entry: SourceEntry) -> KubernetesPods:
    """The source for an entry of DISCOVERY."""
    if reads_slices(entry):
        path = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        return KubernetesPods(entry, path, EndpointSlice, of_slices)
    return KubernetesPods(entry, "/api/v1/namespaces/{namespace}/pods", KubernetesPod, of_pods)
