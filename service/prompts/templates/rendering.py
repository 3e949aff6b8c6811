"""Renders chat templates: the operator's on the event loop, all others in processes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from typing import Any

import jinja2
import msgspec
from msgspec.structs import replace

from service.prompts.errors import PromptError, PromptTooLong
from service.prompts.templates.content_format import content_format
from service.prompts.templates.conversation import ContentFormat
from service.prompts.templates.environment import too_many
from service.prompts.templates.inline_environment import InlineEnvironment, OverBudget
from service.prompts.templates.render_worker import Job, packed
from service.prompts.workers.pool import WorkerPool, WorkersBusy
from service.prompts.workers.process import WorkerLost, WorkFailed

logger = logging.getLogger(__name__)

_WORKER = "service.prompts.templates.render_worker"
_PROCESSES = 2

_TOLERATED_SECONDS = 0.05
"""A template that once held the event loop longer than this is always rendered in a process afterwards."""

_CHARACTER_BYTES = 4
_MAX_TEMPLATES = 64
_MAX_FORMAT_CHARACTERS = 100
_MAX_SOURCE_CHARACTERS = 1 << 20
_MAX_REASON_CHARACTERS = 1000


class RenderingUnavailable(Exception):
    """No template can be rendered at the moment; the text has the reason."""


class TemplateSource(msgspec.Struct, frozen=True):
    """The source of a chat template, and whether it is trusted because the operator chose it."""

    text: str
    trusted: bool


class Template(msgspec.Struct, frozen=True):
    source: TemplateSource
    content_format: ContentFormat
    inline: jinja2.Template | None
    """The template compiled for the event loop; None if it may only render in a process."""


class Renderer:
    """Renders for all models of the service. Call its methods on the event loop's thread."""

    def __init__(self, timeout: float, max_characters: int) -> None:
        """`timeout` is in seconds, for one rendering in a process; `max_characters` bounds the text."""
        self._timeout = timeout
        self._max_characters = max_characters
        self._environment = InlineEnvironment(max_characters)
        self._templates: OrderedDict[TemplateSource, Template | PromptError] = OrderedDict()
        self._workers = WorkerPool(_WORKER, _PROCESSES)

    async def template(self, source: TemplateSource) -> Template:
        """Returns a parsed template; raises PromptError for a syntax error, and RenderingUnavailable."""
        found = self._templates.get(source)
        if found is None:
            found = await self._parse(source)
            self._store(found, source)
        else:
            self._templates.move_to_end(source)
        if isinstance(found, PromptError):
            raise found.with_traceback(None)
        return found

    async def render(self, template: Template, variables: dict[str, Any]) -> str:
        """Returns the text; raises PromptError if the template fails on the variables, and RenderingUnavailable."""
        if template.inline is not None:
            started = time.monotonic()
            try:
                return self._environment.render(template.inline, variables)
            except (OverBudget, RecursionError, MemoryError):
                pass  # Starts again in a process, which bounds time and memory.
            except Exception as error:  # a template may fail in any way
                raise self._failed(str(error) or type(error).__name__) from None
            finally:
                if time.monotonic() - started > _TOLERATED_SECONDS:  # CPU time takes longer to read
                    self._note_duration(template, self._environment.cpu_seconds())
        return await self._run(Job(template.source.text, variables, self._max_characters))

    async def close(self) -> None:
        """Stops all renderings and their processes."""
        await self._workers.close()

    async def _parse(self, source: TemplateSource) -> Template | PromptError:
        """Returns a template, or its permanent error."""
        if len(source.text) > _MAX_SOURCE_CHARACTERS:
            return PromptError(f"the chat template is longer than {_MAX_SOURCE_CHARACTERS} characters", "chat_template")
        try:
            if source.trusted:
                return await asyncio.to_thread(self._compile, source)
            return await self._look_into(source)
        except PromptError as error:
            if isinstance(error.__cause__, WorkerLost):
                raise
            return error

    def _compile(self, source: TemplateSource) -> Template:
        try:
            format_ = content_format(self._environment.parse(source.text))
            return Template(source, format_, self._environment.from_string(source.text))
        except Exception as error:  # jinja2 leaves some errors to Python's compiler
            raise _failure(str(error) or type(error).__name__) from None

    async def _look_into(self, source: TemplateSource) -> Template:
        answer = await self._run(Job(source.text, None, _MAX_FORMAT_CHARACTERS))
        return Template(source, "openai" if answer == "openai" else "string", None)

    def _store(self, found: Template | PromptError, source: TemplateSource) -> None:
        self._templates[source] = found
        while len(self._templates) > _MAX_TEMPLATES:
            self._templates.popitem(last=False)

    def _note_duration(self, template: Template, seconds: float) -> None:
        if seconds > _TOLERATED_SECONDS:
            logger.warning(
                "a chat template held the event loop for %.0f ms; it is rendered in a process now", seconds * 1000
            )
            self._store(replace(template, inline=None), template.source)

    async def _run(self, job: Job) -> str:
        max_bytes = _CHARACTER_BYTES * job.max_characters
        try:
            answer = await self._workers.run(
                lambda process: process.run(packed(job), self._timeout, max_bytes), self._timeout
            )
        except RecursionError:
            raise _failure("its variables are nested too deep") from None
        except WorkFailed as error:
            raise self._failed(str(error)) from error
        except WorkersBusy as error:
            raise RenderingUnavailable(str(error)) from None
        return answer.decode("utf-8", "surrogatepass")

    def _failed(self, reason: str) -> PromptError:
        if reason == too_many(self._max_characters):
            return PromptTooLong(self._max_characters, "messages")
        return _failure(reason)


def _failure(reason: str) -> PromptError:
    return PromptError(f"the chat template failed: {reason[:_MAX_REASON_CHARACTERS]}", "messages")
