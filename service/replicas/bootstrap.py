"""Fills a replica that starts: from another worker, a sibling or the shared store, or the snapshot in STATE_DIR.

Messages of engines wait in their sockets meanwhile. The streams then continue from the last number of the snapshot.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic

import aiohttp

from service.events.capture import Turns
from service.events.pool import EventPool
from service.index.base import Index
from service.replicas.loader import Loader
from service.replicas.snapshot_format import Reader, SnapshotError
from service.replicas.snapshot_place import SnapshotPlace

logger = logging.getLogger(__name__)
_REACH_SECONDS = 1.0
_RETRY_SECONDS = 0.5
_SILENCE_SECONDS = 10.0
_PIECE = 256 * 1024
_READINGS = 3


class Bootstrap:
    """Loads what is there, once, and then lets the pool read its sockets.

    `seconds` bounds the wait for a sibling or the store, and after that for engines to verify their ranks. `done` is
    whether the index is as complete as it gets, so that it is worth a snapshot.
    """

    def __init__(
        self,
        index: Index,
        file: SnapshotPlace | None,
        *,
        store: SnapshotPlace | None = None,
        sibling: str | None = None,
        key_file: Path | None = None,
        workers: Sequence[Path] = (),
        seconds: float = 30.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`workers` are the Unix sockets of the others of this machine, asked once each: those that run know it all."""
        self.done = False
        self._index = index
        self._workers = workers
        self._file = file
        self._store = store
        self._sibling = sibling
        self._key_file = key_file
        self._seconds = seconds
        self._clock = clock
        self._loader: Loader | None = None
        self._pool: EventPool | None = None
        self._source = sibling or ("the snapshot" if store is None else store.name)
        self._until = 0.0

    def reasons(self) -> list[str]:
        """Why the replica is not ready: a sentence with the progress, or nothing."""
        if not self.done:
            blocks, ranks = (self._loader.blocks, self._loader.ranks) if self._loader is not None else (0, 0)
            return [f"the index is being loaded from {self._source}: {blocks} blocks of {ranks} ranks so far"]
        awaited = self._pool.awaited() if self._pool is not None and self._clock() < self._until else 0
        return [f"{awaited} restored ranks wait for their engines (READY_REPLAY_TIMEOUT)"] if awaited else []

    async def run(self, pool: EventPool) -> None:
        """Returns when the pool reads its sockets, whatever went wrong; each problem is one line of the log."""
        began = self._clock()
        self._pool = pool
        self._loader = Loader(self._index, pool)
        try:
            if running := [path for path in self._workers if path.exists()]:
                await self._load_from_workers(running, pool)
            if not self._loader.ranks and self._sibling is not None:
                await self._load_from_sibling(self._sibling, pool)
            if not self._loader.ranks and self._store is not None:
                await self._load_from_store(self._store, pool)
            if not self._loader.ranks and self._file is not None:
                await self._load_from_file(self._file, pool)
        except Exception:  # whatever it is, events must be read
            logger.exception("the index could not be loaded")
            self._loader.drop()
        loader = self._loader
        if loader.ranks:
            seconds = self._clock() - began
            logger.info(
                "loaded %d blocks of %d ranks from %s in %.1f s", loader.blocks, loader.ranks, self._source, seconds
            )
        self._until = self._clock() + self._seconds
        self.done = True
        pool.begin()

    async def _load_from_workers(self, workers: Sequence[Path], pool: EventPool) -> None:
        """Loads what the first worker that answers knows. One that is not there, or is being filled itself, is none."""
        self._source = "another worker"
        await pool.reach(_REACH_SECONDS)
        for path in workers:
            loader = self._loader = Loader(self._index, pool)
            try:
                await self._ask("http://worker", loader, aiohttp.UnixConnector(str(path)))
            except (aiohttp.ClientError, OSError, TimeoutError, SnapshotError) as error:
                logger.debug("no index from %s: %r", path, error)
                loader.drop()
            else:
                loader.finish()
                return

    async def _load_from_file(self, file: SnapshotPlace, pool: EventPool) -> None:
        self._source = file.name
        try:
            await self._load_from(file, pool)
        except (SnapshotError, OSError) as error:
            logger.warning("the snapshot in %s is not used: %s", file.name, error)

    async def _load_from_store(self, store: SnapshotPlace, pool: EventPool) -> None:
        """Asks until the store answers, in time, and again if a newer snapshot took the place of what was read."""
        self._source = store.name
        problem, readings = "no answer", 0
        await pool.reach(_REACH_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                while readings < _READINGS:
                    try:
                        await self._load_from(store, pool)
                    except (SnapshotError, OSError) as error:
                        problem = str(error)
                        readings += isinstance(error, SnapshotError)
                    else:
                        return
                    await asyncio.sleep(_RETRY_SECONDS)
        logger.warning("the snapshot in %s is not used: %s", store.name, problem)

    async def _load_from(self, place: SnapshotPlace, pool: EventPool) -> None:
        """Loads all or nothing, also nothing if there is no snapshot. Raises SnapshotError and OSError."""
        loader = self._loader = Loader(self._index, pool)
        reader, turn, is_empty = Reader(), Turns(), True
        try:
            async for piece in place.pieces():
                is_empty = False
                await _take(loader, reader, piece, turn)
            if not is_empty:
                reader.finish()
        except BaseException:
            loader.drop()
            raise
        loader.finish()

    async def _load_from_sibling(self, sibling: str, pool: EventPool) -> None:
        """Asks until the sibling answers, in time; a torn answer leaves the ranks that are whole."""
        self._source = sibling
        problem = ""
        await pool.reach(_REACH_SECONDS)  # so that no batch falls between the sibling's snapshot and our sockets
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    self._loader = Loader(self._index, pool)
                    try:
                        await self._ask(sibling, self._loader)
                    except (aiohttp.ClientError, OSError, SnapshotError) as error:
                        problem = str(error) or type(error).__name__
                        if self._loader.ranks:
                            break
                        self._loader.drop()
                        if isinstance(error, SnapshotError | _Refused):
                            break
                    else:
                        self._loader.finish()
                        return
                    await asyncio.sleep(_RETRY_SECONDS)
        except TimeoutError:
            problem = problem or "it does not answer"
        assert self._loader is not None  # noqa: S101 - made above
        self._loader.keep_whole_ranks()
        logger.warning("BOOTSTRAP_FROM=%s: %s; %d ranks were loaded", sibling, problem, self._loader.ranks)

    async def _ask(self, sibling: str, loader: Loader, connector: aiohttp.BaseConnector | None = None) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=_SILENCE_SECONDS)
        headers = {}
        if self._key_file is not None and connector is None:
            key = await asyncio.to_thread(self._key_file.read_text, "utf-8")
            headers["Authorization"] = f"Bearer {key.strip()}"
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session,
            session.get(f"{sibling}/snapshot") as response,
        ):
            if response.status in (401, 403, 404):
                raise _Refused(f"it answers {response.status} to GET /snapshot")
            response.raise_for_status()
            reader, turn = Reader(), Turns()
            async for piece in response.content.iter_chunked(_PIECE):
                await _take(loader, reader, piece, turn)
            reader.finish()


async def _take(loader: Loader, reader: Reader, piece: bytes, turn: Turns) -> None:
    """Loads the records that a piece of a snapshot completes."""
    for record in reader.feed(piece):
        loader.take(record)
        await turn.pause()


class _Refused(aiohttp.ClientError):
    """The sibling will not give its snapshot, however often it is asked."""
