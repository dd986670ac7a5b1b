"""Caches compiled schemas for an event loop; concurrent requests for a schema share one lookup.

Files are read and schemas compiled on a single thread, so the repository is never used
concurrently. Failed lookups are cached for a while, because clients choose the URIs.
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
from eventstreams.model.problem import Problem
from eventstreams.schemas.defaults import Defaults
from eventstreams.schemas.repository import Schema, SchemaRepository
from eventstreams.schemas.uri import SchemaUri, parse_named_uri
from eventstreams.schemas.validation import Validator

T = TypeVar("T")

_FAILURES_MAX = 1024
_LATEST_S = 10.0
"""Seconds for which the newest version of a title, and the list of versions, are cached."""


@dataclass(frozen=True)
class Compiled:
    schema: Schema
    validator: Validator
    defaults: Defaults


class _Failure(NamedTuple):
    """The essentials of an error, whose traceback would keep the requesting event in memory."""

    until: float
    kind: type[SchemaError]
    problems: tuple[Problem, ...]


class SchemaStore:
    """The compiled schemas of a repository."""

    def __init__(
        self,
        repository: SchemaRepository,
        *,
        retry_s: float,
        latest_s: float = _LATEST_S,
        failures_max: int = _FAILURES_MAX,
        lenient_formats: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set the repository and how long results are cached, in seconds.

        `retry_s` applies to failures, of which at most `failures_max` are cached, and `latest_s` to
        newest versions and the list of versions.
        """
        self._repository = repository
        self._retry_s = retry_s
        self._latest_s = latest_s
        self._failures_max = failures_max
        self._clock = clock
        self._lenient_formats = lenient_formats
        self._compiled: dict[str, Compiled] = {}
        self._failed: OrderedDict[str, _Failure] = OrderedDict()
        self._latest: dict[str, tuple[float, str]] = {}
        self._uris: tuple[float, asyncio.Future[tuple[SchemaUri, ...]]] | None = None
        """The time at which the list expires, and the list, which may still be loading."""
        self._loading: dict[str, asyncio.Task[Compiled]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="schemas")

    async def get(self, uri: str) -> Compiled:
        """Return a compiled schema. Raises BadSchemaUri, SchemaNotFound, or SchemaError if it is
        invalid.
        """
        compiled = self._compiled.get(uri)
        if compiled is not None:
            return compiled
        name = str(parse_named_uri(uri))  # also keeps invalid URIs out of the cache
        failed = self._failed.get(name)
        if failed is not None:
            if self._clock() < failed.until:
                raise failed.kind(failed.problems)
            del self._failed[name]
        if name not in self._loading:
            self._loading[name] = task = asyncio.ensure_future(self._load(name))
            task.add_done_callback(lambda done: self._loaded(name, done))
        return await asyncio.shield(self._loading[name])

    async def latest(self, title: str) -> Compiled:
        """Return the highest version of a title. Raises the same errors as `get`."""
        known = self._latest.get(title)
        if known is None or self._clock() > known[0]:
            uri = await self._in_thread(lambda: self._repository.latest(title))
            self._latest[title] = known = (self._clock() + self._latest_s, str(uri))
        return await self.get(known[1])

    async def uris(self) -> tuple[SchemaUri, ...]:
        """Return all released versions, sorted.

        The folders are searched at most once in `latest_s` seconds; the same tuple is returned in
        between.
        """
        known = self._uris
        if known is None or self._clock() > known[0]:
            reading = asyncio.ensure_future(self._in_thread(lambda: tuple(self._repository.uris())))
            self._uris = known = (self._clock() + self._latest_s, reading)
            reading.add_done_callback(self._listed)
        return await asyncio.shield(known[1])

    def _listed(self, reading: asyncio.Future[tuple[SchemaUri, ...]]) -> None:
        """Forget a list that could not be read, so that the next request tries again."""
        failed = reading.cancelled() or reading.exception() is not None
        if failed and self._uris is not None and self._uris[1] is reading:
            self._uris = None

    async def aclose(self) -> None:
        """Wait for schemas that are being loaded."""
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
            until = self._clock() + self._retry_s
            self._failed[uri] = _Failure(until, type(error), error.problems)
            if len(self._failed) > self._failures_max:
                self._failed.popitem(last=False)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
