"""Schemas ready to use in an event loop: compiled once, looked up once for all who wait.

Files are read and schemas compiled in one thread, so that the repository is never in two hands.
What was not found is not looked for again for a while, because clients choose the URIs.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from eventstreams.errors import SchemaError
from eventstreams.schemas.defaults import Defaults
from eventstreams.schemas.problem import Problem
from eventstreams.schemas.repository import Schema, SchemaRepository
from eventstreams.schemas.uri import SchemaUri, parse_named_uri
from eventstreams.schemas.validation import Validator

T = TypeVar("T")

_FAILURES_MAX = 1024
_LATEST_S = 10.0
"""How long the newest version of a title is taken for it."""


@dataclass(frozen=True)
class Compiled:
    schema: Schema
    validator: Validator
    defaults: Defaults


class _Failure(NamedTuple):
    """Not the error itself, whose traceback would hold the event that asked for the schema."""

    until: float
    kind: type[SchemaError]
    problems: tuple[Problem, ...]


class SchemaStore:
    def __init__(
        self, repository: SchemaRepository, *, retry_s: float, lenient_formats: bool = False
    ) -> None:
        """`retry_s`: how long a failure stands."""
        self._repository = repository
        self._retry_s = retry_s
        self._lenient_formats = lenient_formats
        self._compiled: dict[str, Compiled] = {}
        self._failed: OrderedDict[str, _Failure] = OrderedDict()
        self._latest: dict[str, tuple[float, str]] = {}
        self._loading: dict[str, asyncio.Task[Compiled]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="schemas")

    def peek(self, uri: str) -> Compiled | None:
        """Only what is compiled already."""
        return self._compiled.get(uri)

    async def get(self, uri: str) -> Compiled:
        """Raises BadSchemaUri, SchemaNotFound, or SchemaError where the schema is broken."""
        compiled = self._compiled.get(uri)
        if compiled is not None:
            return compiled
        name = str(parse_named_uri(uri))  # also keeps absurd ones out of what is remembered
        failed = self._failed.get(name)
        if failed is not None:
            if time.monotonic() < failed.until:
                raise failed.kind(failed.problems)
            del self._failed[name]
        if name not in self._loading:
            self._loading[name] = task = asyncio.ensure_future(self._load(name))
            task.add_done_callback(lambda done: self._loaded(name, done))
        return await asyncio.shield(self._loading[name])

    async def latest(self, title: str) -> Compiled:
        """The highest version there is. Raises as `get`."""
        known = self._latest.get(title)
        if known is None or time.monotonic() > known[0]:
            uri = await self._in_thread(lambda: self._repository.latest(title))
            self._latest[title] = known = (time.monotonic() + _LATEST_S, str(uri))
        return await self.get(known[1])

    async def uris(self) -> list[SchemaUri]:
        """Of all released versions, sorted."""
        return await self._in_thread(self._repository.uris)

    async def aclose(self) -> None:
        """Waits for what is being loaded."""
        if self._loading:
            await asyncio.wait(list(self._loading.values()))
        await asyncio.to_thread(self._thread.shutdown)

    async def _load(self, uri: str) -> Compiled:
        def load() -> Compiled:
            schema = self._repository.get(uri)
            validator = Validator(
                schema.document, str(schema.uri), lenient_formats=self._lenient_formats
            )
            defaults = Defaults(schema.document, compile_test=validator.test_of)
            return Compiled(schema, validator, defaults)

        return await self._in_thread(load)

    def _loaded(self, uri: str, task: asyncio.Task[Compiled]) -> None:
        del self._loading[uri]
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._compiled[uri] = task.result()
        elif isinstance(error, SchemaError):
            until = time.monotonic() + self._retry_s
            self._failed[uri] = _Failure(until, type(error), error.problems)
            if len(self._failed) > _FAILURES_MAX:
                self._failed.popitem(last=False)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
