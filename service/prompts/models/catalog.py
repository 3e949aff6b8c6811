"""Where a model's files are found, and which models are loaded."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import monotonic

from service.contract.settings import Settings
from service.prompts.errors import HubUnreachable, ModelNotFound, ModelUnavailable
from service.prompts.models.daemon_threads import DaemonThreads
from service.prompts.models.model import Model
from service.prompts.models.model_files import TOKENIZER, BadModelFile, read_model_files
from service.prompts.templates.rendering import Renderer
from service.prompts.tokens.token_cache import TokenCache

_BUILTIN = Path(__file__).parent / "builtin"
_BUILTIN_PREFIX = "builtin/"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9_.\-]{0,95})?")
_REMEMBERED_FAILURES = 1000


class Models:
    """The models in use: each loaded once, loads in flight shared, the least recently used let go."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._renderer = Renderer(settings)
        self.token_cache = TokenCache(settings.token_cache_bytes * 3 // 4)
        self._loaded: OrderedDict[str, Model] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Model]] = {}
        self._failed: OrderedDict[str, tuple[float, Exception]] = OrderedDict()
        self._away: tuple[float, HubUnreachable] | None = None
        self._fetchers = DaemonThreads(4, "hub")
        self._workers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="prompts")

    async def get(self, name: str) -> Model:
        """Gives a model, from memory, disk, the hub's cache or the hub; raises ModelNotFound or ModelUnavailable."""
        if (model := self._loaded.get(name)) is not None:
            self._loaded.move_to_end(name)
            return model
        if not _NAME.fullmatch(name) or ".." in name:
            raise ModelNotFound(name, "a model's name is NAME or ORGANISATION/NAME")
        if name in self._failed:
            until, error = self._failed[name]
            if monotonic() < until:
                raise error.with_traceback(None)
            del self._failed[name]
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(self._load(name))
        return await asyncio.shield(task)

    def loaded(self) -> list[str]:
        """The names of the models in memory, least recently used first."""
        return list(self._loaded)

    async def close(self) -> None:
        """Gives up loads in flight and lets the threads end."""
        tasks = list(self._loading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for model in self._loaded.values():
            model.close()
        await self._renderer.close()
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def _load(self, name: str) -> Model:
        try:
            model = await self._read(name)
            await model.prepare()
        except HubUnreachable:
            raise  # Whatever the model: `_fetched` remembers it.
        except (ModelNotFound, ModelUnavailable) as error:
            self._failed[name] = (monotonic() + self._settings.hub_retry_after, error)
            while len(self._failed) > _REMEMBERED_FAILURES:
                self._failed.popitem(last=False)
            raise
        finally:
            del self._loading[name]
        self._loaded[name] = model
        while len(self._loaded) > self._settings.max_models:
            self._loaded.popitem(last=False)
        return model

    async def _read(self, name: str) -> Model:
        """Reads a model from disk, else from the hub's cache, else from the hub."""
        run = asyncio.get_running_loop().run_in_executor
        if (folder := self._on_disk(name)) is not None:
            try:
                return await run(self._workers, self._model, name, folder)
            except BadModelFile as error:
                raise ModelUnavailable(name, str(error), "Replace the file") from None
        folder = await run(self._fetchers, _cached, name)
        if folder is None:
            folder = await run(self._fetchers, self._fetched, name)
        try:
            return await run(self._workers, self._model, name, folder)
        except BadModelFile as half_written:
            try:
                folder = await run(self._fetchers, partial(self._fetched, name, anew=True))
                return await run(self._workers, self._model, name, folder)
            except ModelUnavailable as error:
                reason = f"{half_written}, and it cannot be fetched anew: {error.reason}"
                raise ModelUnavailable(name, reason, error.remedy) from None
            except BadModelFile as error:
                raise ModelUnavailable(name, str(error), "It is as bad on the hub: ask for another model") from None

    def _fetched(self, name: str, *, anew: bool = False) -> Path:
        """Fetches a model, unless the hub was found away, be it while this waited for a thread."""
        if self._away is not None and monotonic() < self._away[0]:
            raise self._away[1].for_model(name)
        from service.prompts.models.hub import fetched_folder  # noqa: PLC0415 - as in `_cached`

        try:
            return fetched_folder(name, self._settings.hub_timeout, anew=anew)
        except HubUnreachable as error:
            self._away = (monotonic() + self._settings.hub_retry_after, error)
            raise

    def _on_disk(self, name: str) -> Path | None:
        """The folder of a model that is built in or in MODELS_DIR; raises ModelNotFound for one that should be."""
        if name.startswith(_BUILTIN_PREFIX):
            folder = _BUILTIN / name.removeprefix(_BUILTIN_PREFIX)
            if not (folder / TOKENIZER).is_file():
                raise ModelNotFound(name, "no model of that name is built in")
            return folder
        folder = self._settings.models_dir / name
        return folder if (folder / TOKENIZER).is_file() else None

    def _model(self, name: str, folder: Path) -> Model:
        return Model(
            name,
            read_model_files(folder),
            settings=self._settings,
            renderer=self._renderer,
            cache=self.token_cache,
            workers=self._workers,
        )


def _cached(name: str) -> Path | None:
    # The hub's client takes a quarter of what the service needs to start, and who has models on disk never needs it.
    from service.prompts.models.hub import cached_folder  # noqa: PLC0415

    return cached_folder(name)
