"""Makes error events, which describe why other events were refused, for producers to read over SSE.

They follow Wikimedia's /error schema. Their size is limited, and so is their number per second, in
total and for each client.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import uuid4

from eventstreams.errors import ConfigError, SchemaError
from eventstreams.intake.document import EventProblem, write
from eventstreams.intake.enrichment import Path, value_at
from eventstreams.intake.router import EventRouter, Route
from eventstreams.model.catalogue import Catalogue
from eventstreams.model.event import Record
from eventstreams.model.timestamp import iso_of
from eventstreams.schemas.store import SchemaStore

_log = logging.getLogger(__name__)
_TITLE = "error"
_FAILURE_S = 10.0
"""Minimum seconds between two log messages about error events that cannot be made."""
_RAW_BYTES_MAX = 256 * 1024
_MESSAGE_MAX = 8 * 1024
_NAME_MAX = 400
"""Maximum characters of each; longer values are cut."""
_NAMED: tuple[tuple[str, Path], ...] = (
    ("errored_schema_uri", ("$schema",)),
    ("errored_stream_name", ("meta", "stream")),
)
_COPIED: tuple[Path, ...] = (("meta", "uri"), ("meta", "domain"), ("meta", "request_id"))
"""Fields copied from the refused event if consumers of error events may see it."""


class Refused(NamedTuple):
    """An event that was refused."""

    event: bytes
    """The event as posted."""
    document: Any
    """The parsed event, as far as it could be parsed."""
    problem: EventProblem


class ErrorEventRate:
    """Limits how many error events are made per second, in total and for each client.

    A client gets no more than is left for all others. A client that floods the intake thus uses
    half of the second's allowance, and the next one half of the rest.
    """

    def __init__(self, per_s: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._began_s = clock()
        self._left = per_s
        self._taken: dict[str, int] = {}
        """Error events made in this second, by the site of the client. Holds at most `per_s`
        sites."""

    def admit(self, site: str) -> bool:
        """Return whether another error event may be made about an event of the client at `site`."""
        now_s = self._clock()
        if now_s >= self._began_s + 1:
            self._began_s = now_s
            self._left = self._per_s
            self._taken.clear()
        taken = self._taken.get(site, 0)
        if taken >= self._left:
            return False
        self._taken[site] = taken + 1
        self._left -= 1
        return True


class ErrorEvents:
    def __init__(
        self,
        *,
        stream: str,
        emitter_id: str,
        rate: ErrorEventRate,
        router: EventRouter,
        schemas: SchemaStore,
        catalogue: Callable[[], Catalogue],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalogue = catalogue
        self._stream = stream
        self._emitter_id = emitter_id
        self._rate = rate
        self._router = router
        self._schemas = schemas
        self._clock = clock
        self._failures = 0
        """Failures since the last log message about them."""
        self._quiet_until_s = clock()

    async def check(self) -> None:
        """Check that error events can be appended to their stream. Raises ConfigError if not."""
        try:
            await self.route()
        except (EventProblem, SchemaError) as error:
            raise ConfigError([f"intake.error_stream: {self._stream}: {error}"]) from error

    def admit(self, site: str) -> bool:
        """Return whether another error event may be made about an event of the client at `site`."""
        return self._rate.admit(site)

    def log_failure(self, error: Exception) -> None:
        """Log why an error event could not be made, at most once in `_FAILURE_S` seconds.

        While the schema of error events is broken, clients can cause any number of such failures.
        """
        self._failures += 1
        if self._clock() >= self._quiet_until_s:
            text = "could not create error events (%d since the last message): %s"
            _log.error(text, self._failures, error)
            self._failures = 0
            self._quiet_until_s = self._clock() + _FAILURE_S

    def record(self, route: Route, refused: Refused, now_ms: int) -> Record:
        """Return the record of the error event about a refused event."""
        document = self._document(route, refused, iso_of(now_ms))
        if not route.schema.validator.accepts(document):  # the copied fields are invalid, too
            document = self._document(route, refused._replace(document=None), iso_of(now_ms))
        return Record(route.topic, write(document), None, now_ms)

    async def route(self) -> Route:
        """Return the route of error events.

        Raises EventProblem or SchemaError if a reloaded catalogue or schema does not accept them.
        """
        latest = await self._schemas.latest(_TITLE)
        uri = str(latest.schema.uri)
        return self._router.known(self._stream, uri) or await self._router.route(self._stream, uri)

    def _document(self, route: Route, refused: Refused, now: str | None) -> dict[str, Any]:
        document: dict[str, Any] = {
            "$schema": str(route.schema.schema.uri),
            "meta": {"stream": self._stream, "id": str(uuid4()), "dt": now},
            "dt": now,
            "emitter_id": self._emitter_id,
            "error_type": refused.problem.kind,
        }
        if self._may_repeat(refused.document):
            self._repeat(document, refused)
        else:
            self._describe(document, refused)
        return document

    def _repeat(self, document: dict[str, Any], refused: Refused) -> None:
        """Copy what was posted into the error event."""
        document["message"] = _cut(refused.problem.message, _MESSAGE_MAX)
        whole = len(refused.event) <= _RAW_BYTES_MAX
        raw = refused.event[:_RAW_BYTES_MAX].decode("utf-8", "replace")
        document["raw_event"] = raw if whole else raw + "…"
        for path in _COPIED:
            value = value_at(refused.document, path)
            if isinstance(value, str):
                document["meta"][path[-1]] = value[:_NAME_MAX]
        for name, named in _NAMED:
            value = value_at(refused.document, named)
            if isinstance(value, str):
                document[name] = _cut(value, _NAME_MAX)

    def _describe(self, document: dict[str, Any], refused: Refused) -> None:
        """Describe the broken rule and the declared stream, without quoting the event."""
        document["message"] = _cut(refused.problem.rule, _MESSAGE_MAX)
        config = self._router.declared(refused.document)
        if config is None:
            return
        document["errored_stream_name"] = config.label
        uri = value_at(refused.document, ("$schema",))
        route = self._router.known(config.name, uri) if isinstance(uri, str) else None
        if route is not None:
            document["errored_schema_uri"] = str(route.schema.schema.uri)

    def _may_repeat(self, document: Any) -> bool:
        """Return whether consumers of error events may see the refused event itself."""
        stream = value_at(document, ("meta", "stream"))
        return self._catalogue().may_repeat(
            stream if isinstance(stream, str) else None, self._stream
        )


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[:characters] + "…"
