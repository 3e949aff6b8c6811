"""Where a model's files are found, and which models are loaded."""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from service.prompts.errors import ModelNotFound, ModelUnavailable
from service.prompts.hub import fetch_model_folder
from service.prompts.model import Model
from service.prompts.model_files import TOKENIZER, BadModelFile, read_model_files
from service.prompts.rendering import Renderer
from service.prompts.token_cache import TokenCache
from service.settings import Settings

_BUILTIN = Path(__file__).parent / "builtin"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9_.\-]{0,95})?")
_REMEMBERED_FAILURES = 1000


class Models:
    """The models in use: each loaded once, loads in flight shared, the least recently used let go."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._renderer = Renderer(settings)
        self._cache = TokenCache(settings.token_cache_bytes)
        self._loaded: OrderedDict[str, Model] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Model]] = {}
        self._failed: OrderedDict[str, tuple[float, Exception]] = OrderedDict()
        self._loaders = ThreadPoolExecutor(max_workers=4, thread_name_prefix="model-load")
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
            if time.monotonic() < until:
                raise error
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
        await self._renderer.close()
        self._loaders.shutdown(wait=False, cancel_futures=True)
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def _load(self, name: str) -> Model:
        try:
            model = await asyncio.get_running_loop().run_in_executor(self._loaders, self._read, name)
            await model.prepare()
        except (ModelNotFound, ModelUnavailable) as error:
            self._failed[name] = (time.monotonic() + self._settings.hub_retry_after, error)
            while len(self._failed) > _REMEMBERED_FAILURES:
                self._failed.popitem(last=False)
            raise
        finally:
            del self._loading[name]
        self._loaded[name] = model
        while len(self._loaded) > self._settings.max_models:
            self._loaded.popitem(last=False)
        return model

    def _read(self, name: str) -> Model:
        folder = self._folder(name)
        try:
            return Model(
                name,
                read_model_files(folder),
                settings=self._settings,
                renderer=self._renderer,
                cache=self._cache,
                workers=self._workers,
            )
        except BadModelFile as error:
            raise ModelUnavailable(
                name, str(error), "Replace the file, or remove it to have it fetched again"
            ) from None

    def _folder(self, name: str) -> Path:
        for parent in (_BUILTIN.parent if name.startswith("builtin/") else self._settings.models_dir,):
            if (parent / name / TOKENIZER).is_file():
                return parent / name
        if name.startswith("builtin/"):
            raise ModelNotFound(name)
        return fetch_model_folder(name, self._settings.hub_timeout)
