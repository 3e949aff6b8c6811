"""The models in memory: loads each once, from disk, the hub cache or the hub; evicts the least recently used."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from service.prompts.errors import BadModelFile, HubUnreachable, ModelNotFound, ModelUnavailable
from service.prompts.models.allowed import BUILTIN_PREFIX, AllowedModels
from service.prompts.models.detached import run_detached
from service.prompts.models.file_names import TOKENIZER
from service.prompts.models.load_failures import LoadFailures
from service.prompts.models.names import ModelNames, Source, has_tokenizer, is_relative
from service.prompts.options import PromptOptions
from service.prompts.tokens.token_cache import TokenCache

if TYPE_CHECKING:
    from service.prompts.models.loading import ModelLoader
    from service.prompts.models.model import Model

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_BUILTIN = Path(__file__).parent / "builtin"
_HUB_CALLS = 4
_COMMIT = re.compile("[0-9a-f]{40}")

_NO_SOURCE = (
    "it is not a name of the hub, and no pod says where its tokenizer is; MODEL_ALIASES=NAME=ORGANISATION/NAME says it"
)


class Models:
    """The models in use: each is loaded once, concurrent loads are shared, the least recently used is evicted.

    The operator's models are those in MODEL_NAME, MODELS and MODELS_DIR, the built-in ones, and the pods' models.
    With MODELS=* requests may name others; these are never trusted, and never evict the operator's.
    """

    def __init__(
        self,
        options: PromptOptions,
        serves: Callable[[str], bool] = lambda _: False,
        clock: Callable[[], float] = monotonic,
        root_of: Callable[[str], str | None] = lambda _: None,
        length_of: Callable[[str], int | None] = lambda _: None,
    ) -> None:
        """`serves` tells whether a pod serves a model, `root_of` its `root` and `length_of` its length there.

        `clock` returns seconds.
        """
        self._options = options
        self._names = ModelNames(options.models_dir, options.model_aliases, root_of)
        self._allowed = AllowedModels(
            {options.model_name, *options.models, *options.model_aliases},
            lambda name: serves(name) or self._names.folder(name) is not None,
        )
        self.token_cache = TokenCache(options.token_cache_bytes)
        self._loaded: OrderedDict[str, Model] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Model]] = {}
        self._refreshing: dict[str, asyncio.Task[bool]] = {}
        self._failures = LoadFailures(options.hub_retry_after, clock)
        self._hub_calls = asyncio.Semaphore(_HUB_CALLS)
        self._workers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="prompts")
        self._length_of = length_of
        self._loader: ModelLoader | None = None
        """Made for the first model."""

    async def get(self, name: str) -> Model:
        """Returns a model from memory, disk, the hub cache or the hub; raises ModelNotFound or ModelUnavailable."""
        model = self._loaded.get(name)
        # A model that was loaded for a stranger is loaded again once it is one of the operator's.
        if model is not None and (model.trusted or not self._allowed.is_operators(name)):
            self._loaded.move_to_end(name)
            return model
        trusted = self._allowed.check(name)
        self._failures.check(name)
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(self._load(name, trusted=trusted))
            task.add_done_callback(lambda _: self._loading.pop(name, None))
        return await asyncio.shield(task)

    async def refresh(self, name: str) -> bool:
        """Loads a model again if its files have changed, here or on the hub; returns whether they had.

        A model that the hub does not give now stays as it is. Raises as `get` does for a model that is not loaded.
        """
        if (task := self._refreshing.get(name)) is None:
            task = self._refreshing[name] = asyncio.create_task(self._refresh(name))
            task.add_done_callback(lambda _: self._refreshing.pop(name, None))
        return await asyncio.shield(task)

    async def _refresh(self, name: str) -> bool:
        before = await self.get(name)
        try:
            source = self._source(name, trusted=before.trusted)
            if source.folder is None and not self._is_fixed(source, name):
                await self._catch_up(source, self._revision(source, name))
            folder = await self._folder(source, name)
            if before.state == await (await self._made_loader()).state(name, folder):
                return False
            await self._load(name, trusted=before.trusted)
        except (ModelNotFound, ModelUnavailable) as error:
            logger.warning("%s was not refreshed: %s", name, error)
            return False
        logger.info("%s was loaded again, since its files have changed", name)
        return True

    def loaded(self) -> list[str]:
        """Names of the models in memory, least recently used first."""
        return list(self._loaded)

    def find(self, name: str) -> Model | None:
        """The model of that name if it is in memory."""
        return self._loaded.get(name)

    async def close(self) -> None:
        """Cancels loads in flight; their threads end on their own."""
        tasks = [*self._loading.values(), *self._refreshing.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for model in self._loaded.values():
            model.close()
        if self._loader is not None:
            await self._loader.close()
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def _load(self, name: str, *, trusted: bool) -> Model:
        try:
            model = await self._read(name, trusted=trusted)
            await model.prepare()
        except HubUnreachable:
            raise  # not specific to this model: `_fetch` remembers it
        except (ModelNotFound, ModelUnavailable) as error:
            self._failures.add(name, error)
            raise
        self._loaded[name] = model
        same = [other for other, loaded in self._loaded.items() if loaded.trusted is trusted]
        for oldest in same[: -self._options.max_models]:
            del self._loaded[oldest]
        return model

    async def _read(self, name: str, *, trusted: bool) -> Model:
        """Loads a model from disk, else from the hub cache, else from the hub."""
        source = self._source(name, trusted=trusted)
        loader = await self._made_loader()
        if source.folder is not None:
            try:
                return await loader.load(name, source.folder, trusted=trusted)
            except BadModelFile as error:
                raise ModelUnavailable(name, str(error), "Replace the file") from None
        try:
            return await loader.load(name, await self._folder(source, name), trusted=trusted)
        except BadModelFile as half_written:
            try:
                folder = await self._fetch(source.name, self._revision(source, name), force=True)
                return await loader.load(name, folder, trusted=trusted)
            except ModelUnavailable as error:
                reason = f"{half_written}, and it cannot be fetched again: {error.reason}"
                raise ModelUnavailable(name, reason, error.remedy) from None
            except BadModelFile as error:
                raise ModelUnavailable(name, str(error), "The hub has the same file: use another model") from None

    async def _made_loader(self) -> ModelLoader:
        """Imports the libraries of templates and tokenizers, which take longer than to answer the first request."""
        loading = await asyncio.get_running_loop().run_in_executor(self._workers, _loading)
        if self._loader is None:
            self._loader = loading(self._options, self.token_cache, self._workers, self._length_of)
        return self._loader

    async def _folder(self, source: Source, name: str) -> Path:
        """Returns the folder of a model, in MODELS_DIR or the hub's cache; fetches it if it is not there."""
        if source.folder is not None:
            return source.folder
        revision = self._revision(source, name)
        folder = await run_detached(partial(_cached, source.name, revision))
        return folder or await self._fetch(source.name, revision)

    async def _catch_up(self, source: Source, revision: str | None) -> None:
        """Fetches a model if the hub has a later commit of its revision than the cache."""
        folder = await run_detached(partial(_cached, source.name, revision))
        latest = await self._ask_hub(source.name, partial(_latest, source.name, self._options.hub_timeout, revision))
        if folder is None or folder.name != latest:
            await self._fetch(source.name, revision)

    async def _fetch(self, name: str, revision: str | None, *, force: bool = False) -> Path:
        """Fetches a model, unless the hub was unreachable a moment ago."""
        return await self._ask_hub(name, partial(_fetched, name, self._options.hub_timeout, revision, force=force))

    async def _ask_hub(self, name: str, work: Callable[[], _T]) -> _T:
        async with self._hub_calls:
            self._failures.check_hub(name)
            try:
                return await run_detached(work)
            except HubUnreachable as error:
                self._failures.add_hub(error)
                raise

    def _revision(self, source: Source, name: str) -> str | None:
        """The operator's revision of a model, by its name in requests or on the hub."""
        return self._options.revisions.get(name, self._options.revisions.get(source.name))

    def _is_fixed(self, source: Source, name: str) -> bool:
        """Whether a model's revision is a commit, which never changes."""
        return _COMMIT.fullmatch(self._revision(source, name) or "") is not None

    def _source(self, name: str, *, trusted: bool) -> Source:
        """Where the files of a model are. Raises ModelNotFound or ModelUnavailable if they are nowhere."""
        source = self._names.source(name) if trusted else Source(name)
        if source.name.startswith(BUILTIN_PREFIX):
            folder = _BUILTIN / source.name.removeprefix(BUILTIN_PREFIX)
            if not is_relative(source.name) or not has_tokenizer(folder):
                raise ModelNotFound(name, "no model of that name is built in")
            return Source(source.name, folder)
        if source.folder is not None and not has_tokenizer(source.folder):
            reason = f"{source.folder} has no {TOKENIZER}"
            raise ModelUnavailable(name, reason, f"Put the model's {TOKENIZER} there")
        if source.folder is None and not source.is_on_hub:
            raise ModelNotFound(name, _NO_SOURCE)
        return source


# Imported when needed, in threads, since each takes tens of milliseconds; models on disk need no client of the hub.


def _loading() -> type[ModelLoader]:
    from service.prompts.models.loading import ModelLoader  # noqa: PLC0415

    return ModelLoader


def _cached(name: str, revision: str | None) -> Path | None:
    from service.prompts.models.hub import cached_folder  # noqa: PLC0415

    return cached_folder(name, revision)


def _latest(name: str, timeout: float, revision: str | None) -> str | None:
    from service.prompts.models.hub import latest_commit  # noqa: PLC0415

    return latest_commit(name, timeout, revision)


def _fetched(name: str, timeout: float, revision: str | None, *, force: bool) -> Path:
    from service.prompts.models.hub import fetched_folder  # noqa: PLC0415

    return fetched_folder(name, timeout, revision, force=force)
