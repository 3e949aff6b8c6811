"""The models in memory: loads each once, from disk, the hub cache or the hub; evicts the least recently used."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import monotonic

from service.contract.model_options import ModelOptions
from service.prompts.errors import BadModelFile, HubUnreachable, ModelNotFound, ModelUnavailable, PromptError
from service.prompts.models.allowed import BUILTIN_PREFIX, AllowedModels
from service.prompts.models.detached import run_detached
from service.prompts.models.load_failures import LoadFailures
from service.prompts.models.model import Model
from service.prompts.models.model_files import TOKENIZER, read_model_files
from service.prompts.models.names import ModelNames, Source, has_tokenizer, is_relative
from service.prompts.options import PromptOptions
from service.prompts.templates.rendering import Renderer
from service.prompts.tokens.token_cache import TokenCache
from service.prompts.tokens.tokenization import panics_as_errors

_BUILTIN = Path(__file__).parent / "builtin"
_HUB_CALLS = 4

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
        self._length_of = length_of
        self._options = options
        self._names = ModelNames(options.models_dir, options.model_aliases, root_of)
        self._allowed = AllowedModels(
            {options.model_name, *options.models, *options.model_aliases},
            lambda name: serves(name) or self._names.folder(name) is not None,
        )
        self._renderer = Renderer(options.render_timeout, options.max_prompt_characters)
        self.token_cache = TokenCache(options.token_cache_bytes)
        self._loaded: OrderedDict[str, Model] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Model]] = {}
        self._failures = LoadFailures(options.hub_retry_after, clock)
        self._hub_calls = asyncio.Semaphore(_HUB_CALLS)
        self._workers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="prompts")

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
        return await asyncio.shield(task)

    def loaded(self) -> list[str]:
        """Names of the models in memory, least recently used first."""
        return list(self._loaded)

    def find(self, name: str) -> Model | None:
        """The model of that name if it is in memory."""
        return self._loaded.get(name)

    async def close(self) -> None:
        """Cancels loads in flight; their threads end on their own."""
        tasks = list(self._loading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for model in self._loaded.values():
            model.close()
        await self._renderer.close()
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
        finally:
            del self._loading[name]
        self._loaded[name] = model
        same = [other for other, loaded in self._loaded.items() if loaded.trusted is trusted]
        for oldest in same[: -self._options.max_models]:
            del self._loaded[oldest]
        return model

    async def _read(self, name: str, *, trusted: bool) -> Model:
        """Loads a model from disk, else from the hub cache, else from the hub."""
        loop = asyncio.get_running_loop()

        async def model_in(folder: Path) -> Model:
            return await loop.run_in_executor(self._workers, partial(self._model, name, folder, trusted=trusted))

        source = self._source(name, trusted=trusted)
        if source.folder is not None:
            try:
                return await model_in(source.folder)
            except BadModelFile as error:
                raise ModelUnavailable(name, str(error), "Replace the file") from None
        folder = await run_detached(partial(_cached, source.name))
        if folder is None:
            folder = await self._fetch(source.name)
        try:
            return await model_in(folder)
        except BadModelFile as half_written:
            try:
                return await model_in(await self._fetch(source.name, force=True))
            except ModelUnavailable as error:
                reason = f"{half_written}, and it cannot be fetched again: {error.reason}"
                raise ModelUnavailable(name, reason, error.remedy) from None
            except BadModelFile as error:
                raise ModelUnavailable(name, str(error), "The hub has the same file: use another model") from None

    async def _fetch(self, name: str, *, force: bool = False) -> Path:
        """Fetches a model, unless the hub was unreachable a moment ago."""
        async with self._hub_calls:
            self._failures.check_hub(name)
            try:
                return await run_detached(partial(_fetched, name, self._options.hub_timeout, force=force))
            except HubUnreachable as error:
                self._failures.add_hub(error)
                raise

    def _source(self, name: str, *, trusted: bool) -> Source:
        """Where the files of a model are. Raises ModelNotFound or ModelUnavailable if they are nowhere."""
        source = self._names.source(name) if trusted else Source(name)
        if source.name.startswith(BUILTIN_PREFIX):
            folder = _BUILTIN / source.name.removeprefix(BUILTIN_PREFIX)
            if not is_relative(source.name) or not (folder / TOKENIZER).is_file():
                raise ModelNotFound(name, "no model of that name is built in")
            return Source(source.name, folder)
        if source.folder is not None and not has_tokenizer(source.folder):
            reason = f"{source.folder} has no {TOKENIZER}"
            raise ModelUnavailable(name, reason, f"Put the model's {TOKENIZER} there")
        if source.folder is None and not source.is_on_hub:
            raise ModelNotFound(name, _NO_SOURCE)
        return source

    def _model(self, name: str, folder: Path, *, trusted: bool) -> Model:
        files = read_model_files(folder, name, self._options.renderers.get(name))
        try:
            with panics_as_errors():
                return Model(
                    name,
                    files,
                    trusted=trusted,
                    options=self._options,
                    given=self._options.model_options.get(name, ModelOptions()),
                    renderer=self._renderer,
                    cache=self.token_cache,
                    workers=self._workers,
                    served_length=partial(self._length_of, name),
                )
        except PromptError as error:
            raise BadModelFile(files.tokenizer_file, error.message) from None


# Imported when needed: the hub client takes a quarter of the start-up time, and models on disk do not need it.


def _cached(name: str) -> Path | None:
    from service.prompts.models.hub import cached_folder  # noqa: PLC0415

    return cached_folder(name)


def _fetched(name: str, timeout: float, *, force: bool) -> Path:
    from service.prompts.models.hub import fetched_folder  # noqa: PLC0415

    return fetched_folder(name, timeout, force=force)
