"""Events that say why others were refused, so that producers can watch theirs over SSE.

The form is that of upstream's /error schema. They are bounded: in size, and in number a second, for
all clients and for each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import uuid4

from eventstreams.errors import ConfigError, SchemaError
from eventstreams.intake.document import EventProblem, write
from eventstreams.intake.filling import Path, value_at
from eventstreams.intake.gate import Gate, Route
from eventstreams.model.event import Record
from eventstreams.model.instant import iso_of
from eventstreams.model.stream import Catalogue
from eventstreams.schemas.store import SchemaStore

_TITLE = "error"
_RAW_BYTES_MAX = 256 * 1024
_MESSAGE_MAX = 8 * 1024
_NAME_MAX = 400
"""Characters of each; what is longer is cut."""
_NAMED: tuple[tuple[str, Path], ...] = (
    ("errored_schema_uri", ("$schema",)),
    ("errored_stream_name", ("meta", "stream")),
)
_COPIED: tuple[Path, ...] = (("meta", "uri"), ("meta", "domain"), ("meta", "request_id"))
"""Fields of the event that are repeated where the event itself may be."""


class Refused(NamedTuple):
    """One event that was not taken."""

    event: bytes
    """As it was posted."""
    document: Any
    """The same, as far as it could be read."""
    problem: EventProblem


class ErrorEventRate:
    """How many error events may be made: so many in a second, and for each client no more than are
    left for the others.

    A client that floods the intake thus takes half of them, the next one half of the rest.
    """

    def __init__(self, per_s: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._began_s = clock()
        self._left = per_s
        self._taken: dict[str, int] = {}
        """In this second, by the site of the client. It holds at most `per_s` sites."""

    def admit(self, site: str) -> bool:
        """Whether there may be one more now about an event of the client at `site`."""
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
        gate: Gate,
        schemas: SchemaStore,
        catalogue: Callable[[], Catalogue],
    ) -> None:
        self._catalogue = catalogue
        self._stream = stream
        self._emitter_id = emitter_id
        self._rate = rate
        self._gate = gate
        self._schemas = schemas

    async def check(self) -> None:
        """Raises ConfigError where error events could not go where they are to go."""
        try:
            await self.route()
        except (EventProblem, SchemaError) as error:
            raise ConfigError([f"intake.error_stream: {self._stream}: {error}"]) from error

    def admit(self, site: str) -> bool:
        """Whether there may be one more now about an event of the client at `site`."""
        return self._rate.admit(site)

    def record(self, route: Route, refused: Refused, now_ms: int) -> Record:
        """The error event about a refused one."""
        document = self._document(route, refused, iso_of(now_ms))
        if not route.schema.validator.accepts(document):  # what was copied is invalid, too
            document = self._document(route, refused._replace(document=None), iso_of(now_ms))
        return Record(route.topic, write(document), None, now_ms)

    async def route(self) -> Route:
        """Where error events go. Raises EventProblem, SchemaError where a new catalogue or schema
        does not take them."""
        latest = await self._schemas.latest(_TITLE)
        uri = str(latest.schema.uri)
        return self._gate.known(self._stream, uri) or await self._gate.route(self._stream, uri)

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
        """Put in what was posted."""
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
        """Put in which rule was broken, and what is declared: nothing that the event holds."""
        document["message"] = _cut(refused.problem.rule, _MESSAGE_MAX)
        config = self._gate.declared(refused.document)
        if config is None:
            return
        document["errored_stream_name"] = config.label
        uri = value_at(refused.document, ("$schema",))
        route = self._gate.known(config.name, uri) if isinstance(uri, str) else None
        if route is not None:
            document["errored_schema_uri"] = str(route.schema.schema.uri)

    def _may_repeat(self, document: Any) -> bool:
        """Whether those who read about it may see the event itself."""
        stream = value_at(document, ("meta", "stream"))
        return self._catalogue().may_repeat(
            stream if isinstance(stream, str) else None, self._stream
        )


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[:characters] + "…"
